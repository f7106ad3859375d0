/* A closed-loop HTTP load generator: one thread, epoll, a fixed number of keep-alive connections.
 *
 *   loadgen -p PORT -m json|sse -c CONNECTIONS -d SECONDS [-w WARM_SECONDS] [-n REQUESTS] [-b BODY_BYTES] [-u PATH]
 *           [-k API_KEY] [-t MAX_TOKENS] [-i INTERVAL_US] [-l DELAY_US]
 *
 * Each connection sends the next request when the answer is complete; latency is from send to last byte, `first`
 * from send to the first byte of the answer. -n: end after so many answers, at -d at the latest.
 * sse: in every event it reads the time "T<ns>" at which the upstream wrote it (same clock, same machine): the
 *      one-way delay of each chunk. By default the streams are endless.
 *
 * -t, -i and -l are wishes to the upstream: see upstream.c. What llmsup says about itself is counted too: `retried`,
 * answers that it had to ask for again, and `continued`, streams that went on after a break; both should be 0.
 * Nothing of the warm-up counts in rates and latencies (but in `first` of streams, which begin in it); `sent`, `done` and `chunks_all` are the whole run's, for
 * dividing CPU time that was read before and after it. One JSON object on stdout; times in microseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192, LINE_BYTES = 4096, READ_BYTES = 262144, MAX_EVENTS = 512 };

/* ---- histogram: 256 buckets to each power of two, so a quantile is right within 0.4 % */

enum { SUB_BITS = 8, SUB = 1 << SUB_BITS };
typedef struct { uint32_t bucket[64 * SUB]; uint64_t count, max; double sum; } histogram;

static void record(histogram *h, uint64_t ns) {
    int top = 63 - __builtin_clzll(ns | 1);
    uint64_t at = top < SUB_BITS ? ns : (uint64_t)(top - SUB_BITS + 1) * SUB + ((ns >> (top - SUB_BITS)) & (SUB - 1));
    h->bucket[at]++;
    h->count++;
    h->sum += (double)ns;
    if (ns > h->max) h->max = ns;
}

static double quantile(const histogram *h, double q) {
    uint64_t target = (uint64_t)(q * (double)h->count), seen = 0;
    for (uint64_t i = 0; i < 64 * SUB; i++) {
        seen += h->bucket[i];
        if (seen <= target) continue;
        if (i < SUB) return (double)i;
        int shift = (int)(i / SUB) - 1;
        return (double)((SUB + (i & (SUB - 1))) << shift) + (double)(1ull << shift) / 2; /* the bucket's middle */
    }
    return (double)h->max;
}

static void print_histogram(const char *name, const histogram *h) {
    if (!h->count) { printf(", \"%s\": null", name); return; }
    printf(", \"%s\": {\"n\": %llu, \"mean\": %.2f, \"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"max\": %.2f}", name,
           (unsigned long long)h->count, h->sum / (double)h->count / 1e3, quantile(h, .5) / 1e3, quantile(h, .9) / 1e3,
           quantile(h, .99) / 1e3, (double)h->max / 1e3);
}

/* ---- connections */

typedef enum { HEAD, BY_LENGTH, UNTIL_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, LAST_LINE } part;

typedef struct {
    int fd;
    uint64_t sent_ns;
    part reading;
    long left;                       /* bytes left of the body or of the chunk */
    char head[HEAD_BYTES];
    int head_len;
    char line[LINE_BYTES];           /* an event's line, gathered over reads */
    int line_len;
} conn;

static int epoll_fd, port, is_sse;
static char *request;
static size_t request_len;
static uint64_t measure_from, sent_all, done, errors, truncated, not_200, retried, continued, chunks, chunks_all;
static histogram latency, first, chunk_delay;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void dial(conn *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct epoll_event e = {EPOLLIN, {.ptr = c}};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        printf("{\"error\": \"connect: %s\"}\n", strerror(errno));
        exit(1);
    }
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void send_request(conn *c) {
    c->reading = HEAD;
    c->head_len = c->line_len = 0;
    c->sent_ns = now_ns();
    sent_all++;
    for (size_t off = 0; off < request_len;) {
        ssize_t sent = send(c->fd, request + off, request_len - off, MSG_NOSIGNAL);
        if (sent <= 0) return; /* the read that follows tells of the close */
        off += (size_t)sent;
    }
}

/* ---- reading answers */

static void see_line(conn *c, uint64_t now) {
    if (!strncmp(c->line, ": llmsup-continued", 18)) continued++;
    char *mark = memmem(c->line, (size_t)c->line_len, "\"T", 2);
    if (!mark || mark[2] < '0' || mark[2] > '9') return;
    uint64_t written = strtoull(mark + 2, NULL, 10);
    chunks_all++;
    if (now < measure_from) return;
    chunks++;
    record(&chunk_delay, now > written ? now - written : 0);
}

static void see_body(conn *c, const char *data, long len, uint64_t now) {
    while (is_sse && len > 0) {
        const char *eol = memchr(data, '\n', (size_t)len);
        long part_len = eol ? eol - data + 1 : len;
        if (c->line_len + part_len < LINE_BYTES) {
            memcpy(c->line + c->line_len, data, (size_t)part_len);
            c->line_len += (int)part_len;
        }
        if (eol) {
            c->line[c->line_len] = 0;
            see_line(c, now);
            c->line_len = 0;
        }
        data += part_len;
        len -= part_len;
    }
}

/* Takes what belongs to the head; sets what comes next. Returns bytes used, -1 on nonsense. */
static long take_head(conn *c, const char *data, long len) {
    long room = HEAD_BYTES - 1 - c->head_len, take = len < room ? len : room;
    int before = c->head_len;
    memcpy(c->head + before, data, (size_t)take);
    c->head_len += (int)take;
    c->head[c->head_len] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return take < len ? -1 : take;
    end += 4;
    c->reading = UNTIL_CLOSE;
    if (strncmp(c->head + 8, " 200", 4)) not_200++;
    char *retries = memmem(c->head, (size_t)(end - c->head), "x-llmsup-retries: ", 18);
    if (retries && retries[18] != '0') retried++;
    for (char *line = strchr(c->head, '\n'); line && ++line < end; line = strchr(line, '\n')) {
        if (!strncasecmp(line, "content-length:", 15)) { c->left = atol(line + 15); c->reading = BY_LENGTH; }
        else if (!strncasecmp(line, "transfer-encoding:", 18)) { c->left = 0; c->reading = CHUNK_SIZE; break; }
    }
    return (end - c->head) - before;
}

static int hex(char ch) {
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch |= 32;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* 1: the answer is complete; 0: more to come; -1: nonsense. */
static int feed(conn *c, const char *data, long len, uint64_t now) {
    for (;;) {
        long take = c->left < len ? c->left : len;
        switch (c->reading) {
        case HEAD:
            take = take_head(c, data, len);
            if (take < 0) return -1;
            break;
        case UNTIL_CLOSE:
            see_body(c, data, len, now);
            return 0;
        case BY_LENGTH:
            see_body(c, data, take, now);
            c->left -= take;
            break;
        case CHUNK_SIZE:
            if (!len) return 0;
            take = 1;
            if (*data == '\n') c->reading = c->left ? CHUNK_DATA : LAST_LINE;
            else if (*data != '\r') {
                if (hex(*data) < 0) return -1;
                c->left = c->left * 16 + hex(*data);
            }
            break;
        case CHUNK_DATA:
            see_body(c, data, take, now);
            c->left -= take;
            if (!c->left) c->reading = CHUNK_END;
            break;
        case CHUNK_END:
        case LAST_LINE:
            if (!len) return 0;
            take = 1;
            if (*data == '\n') {
                if (c->reading == LAST_LINE) return 1;
                c->reading = CHUNK_SIZE;
            }
            break;
        }
        data += take;
        len -= take;
        if (c->reading == BY_LENGTH && !c->left) return 1;
        if (!len) return 0;
    }
}

/* One readable connection: take what is there, and send the next request when the answer is complete. */
static void on_readable(conn *c) {
    static char buffer[READ_BYTES];
    ssize_t got = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    uint64_t now = now_ns();
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0 && c->reading == HEAD && !c->head_len && (is_sse || now >= measure_from)) record(&first, now - c->sent_ns);
    int end = got > 0 ? feed(c, buffer, got, now) : c->reading == UNTIL_CLOSE && got == 0 ? 1 : -1;
    if (!end) return;
    if (end > 0) {
        done++;
        if (now >= measure_from) record(&latency, now - c->sent_ns);
    } else {
        errors++;
        if (c->reading != HEAD) truncated++;
    }
    if (end < 0 || c->reading == UNTIL_CLOSE) {
        close(c->fd);
        dial(c);
    }
    send_request(c);
}

static void make_request(const char *path, const char *key, long body_bytes, long tokens, long interval_us, long delay_us) {
    char *body = malloc((size_t)body_bytes + 512);
    int embeds = strstr(path, "embeddings") != NULL;
    int n = sprintf(body, "{\"model\":\"bench\",");
    if (is_sse) n += sprintf(body + n, "\"stream\":true,");
    if (!embeds) n += sprintf(body + n, "\"max_tokens\":%ld,\"bench_interval_us\":%ld,", tokens, interval_us);
    if (delay_us) n += sprintf(body + n, "\"bench_delay_us\":%ld,", delay_us);
    n += sprintf(body + n, "%s", embeds ? "\"input\":\"" : "\"messages\":[{\"role\":\"user\",\"content\":\"");
    while (n < body_bytes - 4) body[n++] = 'y';
    n += sprintf(body + n, "%s", embeds ? "\"}" : "\"}]}");
    request = malloc((size_t)n + strlen(key) + 1024);
    request_len = (size_t)sprintf(request,
                                  "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: OpenAI/Python 1.99.0\r\n"
                                  "Authorization: Bearer %s\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
                                  "Content-Type: application/json\r\nX-User-ID: bench\r\nX-Stainless-Lang: python\r\n"
                                  "Content-Length: %d\r\n\r\n", path, port, key, n);
    memcpy(request + request_len, body, (size_t)n);
    request_len += (size_t)n;
    free(body);
}

int main(int argc, char **argv) {
    int option, connections = 1;
    double seconds = 3, warm = 0;
    long body_bytes = 2048, tokens = -1, interval_us = -1, delay_us = 0, requests = 0;
    const char *path = "/v1/chat/completions", *key = "none";
    while ((option = getopt(argc, argv, "p:m:c:d:w:n:b:u:k:t:i:l:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'm': is_sse = !strcmp(optarg, "sse"); break;
        case 'c': connections = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'w': warm = atof(optarg); break;
        case 'b': body_bytes = atol(optarg); break;
        case 'u': path = optarg; break;
        case 'k': key = optarg; break;
        case 't': tokens = atol(optarg); break;
        case 'i': interval_us = atol(optarg); break;
        case 'l': delay_us = atol(optarg); break;
        case 'n': requests = atol(optarg); break;
        default: return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the benchmark */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    /* The job of a stream: chunks for longer than anybody measures. The job of a plain request: one token, at once. */
    make_request(path, key, body_bytes, tokens < 0 ? (is_sse ? 1000000 : 1) : tokens, interval_us < 0 ? (is_sse ? 20000 : 0) : interval_us,
                 delay_us);
    conn *all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < connections; i++) dial(&all[i]);

    uint64_t end = now_ns() + (uint64_t)((seconds + warm) * 1e9), done_at_measure = 0, now;
    measure_from = end - (uint64_t)(seconds * 1e9);
    for (int i = 0; i < connections; i++) send_request(&all[i]);
    static struct epoll_event events[MAX_EVENTS];
    while ((now = now_ns()) < end && (!requests || done < (uint64_t)requests)) {
        if (now < measure_from) done_at_measure = done;
        uint64_t left = end - now;
        struct timespec wait = {(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
        int n = epoll_pwait2(epoll_fd, events, MAX_EVENTS, &wait, NULL);
        for (int i = 0; i < n; i++) on_readable(events[i].data.ptr);
    }
    double elapsed = (double)(now - measure_from) / 1e9;
    printf("{\"seconds\": %.4f, \"sent\": %llu, \"done\": %llu, \"rps\": %.1f, \"errors\": %llu, \"truncated\": %llu, \"not_200\": %llu, "
           "\"retried\": %llu, \"continued\": %llu, "
           "\"chunks_per_s\": %.1f, \"chunks_all\": %llu", elapsed, (unsigned long long)sent_all, (unsigned long long)done,
           (double)(done - done_at_measure) / elapsed, (unsigned long long)errors, (unsigned long long)truncated,
           (unsigned long long)not_200, (unsigned long long)retried, (unsigned long long)continued, (double)chunks / elapsed, (unsigned long long)chunks_all);
    print_histogram("latency_us", &latency);
    print_histogram("first_us", &first);
    print_histogram("chunk_delay_us", &chunk_delay);
    puts("}");
    return 0;
}
