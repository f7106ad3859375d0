/* A llama-server stand-in that is never the bottleneck: one thread, epoll, HTTP/1.1 with keep-alive.
 *
 *   upstream --port N [any other llama-server flags]      upstream --version | --help
 *
 * POST (any path)        a fixed 1 KiB JSON answer, after "bench_delay_us", or, when the body holds "stream":true,
 *                        server-sent events: "max_tokens" of them, one every "bench_interval_us" (0: all at once),
 *                        with counts and usage where they are asked for, as llama-server writes them.
 * GET /health /props /v1/models /slots /metrics          what a supervisor looks at
 * GET /bench             what has been asked: {"posts":N,"streams":N}
 *
 * Every event's content is "T<ns>", the CLOCK_MONOTONIC time at which it was written, so that a reader on
 * the same machine (loadgen.c) can tell one-way delays. Headers such as Authorization are ignored.
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

enum { READ_BYTES = 4096, MAX_EVENTS = 512, BURST_EVENTS = 1000 };
static const long DEFAULT_TOKENS = 100, DEFAULT_INTERVAL_US = 20000;

typedef struct conn {
    int fd;
    char *in;                /* unread request bytes */
    size_t in_len, in_cap;
    char *out;               /* answer bytes the socket did not take yet */
    size_t out_len, out_off, out_cap;
    int wants_write, corked; /* corked: gather in `out` */
    int streaming, native;   /* native: /completion's own event shape */
    int timings, usage;      /* asked for in the body */
    const char *later;       /* not a stream: the answer that is due then */
    long events, events_left;
    uint64_t interval_ns, due_ns;
    int heap_at;             /* place among the paced streams, -1: none */
    struct conn *next_dead;
} conn;

#define HEAP_ITEM conn
#include "heap.h"
#include "text.h"

static int epoll_fd;
static unsigned long long tokens_total, prompts_total, streams_total, streams_now;
static conn *dead_list;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- writing */

static void want_write(conn *c, int on) {
    if (c->wants_write == on) return;
    c->wants_write = on;
    struct epoll_event e = {EPOLLIN | (on ? EPOLLOUT : 0), {.ptr = c}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* 0, or -1 when the connection is dead. What does not fit now goes out when epoll says so. */
static int put(conn *c, const char *data, size_t len) {
    if (!c->corked && c->out_len == c->out_off) {
        c->out_len = c->out_off = 0;
        ssize_t sent = send(c->fd, data, len, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent > 0) { data += sent; len -= (size_t)sent; }
        if (!len) return 0;
    }
    if (c->out_len + len > c->out_cap) c->out = grown(c->out, c->out_cap = (c->out_len + len) * 2);
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    if (!c->corked) want_write(c, 1);
    return 0;
}

static int flush_pending(conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) want_write(c, 1);
            return errno == EAGAIN ? 0 : -1;
        }
        c->out_off += (size_t)sent;
    }
    c->out_len = c->out_off = 0;
    want_write(c, 0);
    return 0;
}

static int put_whole(conn *c, const char *type, const char *body, size_t len) {
    char head[256];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
    char all[sizeof head + 4096];
    if ((size_t)n + len > sizeof all) return put(c, head, (size_t)n) < 0 ? -1 : put(c, body, len);
    memcpy(all, head, (size_t)n);
    memcpy(all + n, body, len); /* one send, one segment */
    return put(c, all, (size_t)n + len);
}

/* ---- answers */

/* The text of one event, "data: " and empty line included, as a chunk. `counts` goes in where llama-server has it. */
static int put_event(conn *c, const char *text, const char *counts) {
    char event[900], framed[960];
    int len = snprintf(event, sizeof event, "data: %s%s}\n\n", text, counts);
    int n = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", (unsigned)len, event);
    return put(c, framed, (size_t)n);
}

static const char *timings(conn *c) {
    static char text[400];
    snprintf(text, sizeof text, ",\"timings\":{\"cache_n\":0,\"prompt_n\":10,\"prompt_ms\":1.25,\"prompt_per_token_ms\":0.125,"
             "\"prompt_per_second\":8000.0,\"predicted_n\":%ld,\"predicted_ms\":2.5,\"predicted_per_token_ms\":0.25,"
             "\"predicted_per_second\":4000.0}", c->events);
    return text;
}

static int put_token(conn *c) {
    char text[400];
    const char *shape = c->native
        ? "{\"index\":0,\"content\":\"T%016llu\",\"tokens\":[1],\"stop\":false,\"id_slot\":-1"
        : "{\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"T%016llu\"}}]," CHAT_FIELDS;
    snprintf(text, sizeof text, shape, (unsigned long long)now_ns());
    if (!c->native && !c->events &&
        put_event(c, "{\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}]," CHAT_FIELDS,
                  c->timings ? timings(c) : "") < 0) return -1;
    tokens_total++;
    c->events++;
    c->events_left--;
    return put_event(c, text, c->timings ? timings(c) : "");
}

static int put_end(conn *c) {
    char usage[500];
    static const char done[] = "e\r\ndata: [DONE]\n\n\r\n";
    if (c->native) return put_event(c, "{\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"limit\"", "");
    if (put_event(c, "{\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}]," CHAT_FIELDS,
                  c->usage ? "" : timings(c)) < 0) return -1;
    snprintf(usage, sizeof usage, "{\"choices\":[]," CHAT_FIELDS ",\"usage\":{\"completion_tokens\":%ld,\"prompt_tokens\":10,"
             "\"total_tokens\":%ld,\"prompt_tokens_details\":{\"cached_tokens\":0}}", c->events, c->events + 10);
    if (c->usage && put_event(c, usage, timings(c)) < 0) return -1;
    return put(c, done, sizeof done - 1);
}

static int end_stream(conn *c) {
    c->streaming = 0;
    streams_now--;
    heap_remove(c);
    if (c->later) return put_whole(c, "application/json; charset=utf-8", c->later, REPLY_BYTES);
    return put_end(c) < 0 ? -1 : put(c, "0\r\n\r\n", 5);
}

static void begin(conn *c) {
    c->streaming = 1;
    c->events = c->events_left = 0;
    c->later = NULL;
    streams_now++;
}

static int start_stream(conn *c, const char *body, size_t len) {
    static const char head[] = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nX-Accel-Buffering: no\r\n"
                               "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    begin(c);
    streams_total++;
    c->timings = field(body, len, "\"timings_per_token\"") != NULL;
    c->usage = field(body, len, "\"include_usage\"") != NULL;
    c->events_left = number(body, len, "\"max_tokens\"", DEFAULT_TOKENS);
    c->interval_ns = (uint64_t)number(body, len, "\"bench_interval_us\"", DEFAULT_INTERVAL_US) * 1000;
    c->corked = !c->interval_ns; /* at once is in one write: a write an event would cost more than many a proxy */
    if (put(c, head, sizeof head - 1) < 0) return -1;
    if (!c->interval_ns) {
        for (int i = 0; i < BURST_EVENTS && c->events_left > 0; i++)
            if (put_token(c) < 0) return -1;
        if (end_stream(c) < 0) return -1;
        c->corked = 0;
        return flush_pending(c);
    }
    /* A random phase: many streams of one load generator must not all tick together. */
    c->due_ns = now_ns() + (uint64_t)rand() % c->interval_ns;
    heap_add(c);
    return 0;
}

/* A whole answer, now or when it is due. */
static int start_whole(conn *c, const char *reply, long delay_us) {
    if (!delay_us) return put_whole(c, "application/json; charset=utf-8", reply, REPLY_BYTES);
    begin(c);
    c->later = reply;
    c->due_ns = now_ns() + (uint64_t)delay_us * 1000;
    heap_add(c);
    return 0;
}

static int put_metrics(conn *c) {
    char body[1024];
    int n = snprintf(body, sizeof body,
                     "# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total %llu\n"
                     "# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total %llu\n"
                     "# TYPE llamacpp:n_decode_total counter\nllamacpp:n_decode_total %llu\n"
                     "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing %llu\n"
                     "# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 0\n",
                     prompts_total, tokens_total, tokens_total, streams_now);
    return put_whole(c, "text/plain; version=0.0.4", body, (size_t)n);
}

static int put_get(conn *c, const char *line) {
    static const struct { const char *path, *body; } pages[] = {
        {" /health", "{\"status\":\"ok\"}"},
        {" /props", "{\"default_generation_settings\":{\"n_ctx\":4096},\"total_slots\":512,\"model_alias\":\"bench\",\"is_sleeping\":false}"},
        {" /v1/models", "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"owned_by\":\"llamacpp\"}]}"},
        {" /slots", "[]"},
    };
    if (!strncmp(line, " /metrics", 9)) return put_metrics(c);
    if (!strncmp(line, " /bench", 7)) {
        char asked[100];
        int n = snprintf(asked, sizeof asked, "{\"posts\":%llu,\"streams\":%llu}", prompts_total, streams_total);
        return put_whole(c, "application/json", asked, (size_t)n);
    }
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        if (!strncmp(line, pages[i].path, strlen(pages[i].path)))
            return put_whole(c, "application/json; charset=utf-8", pages[i].body, strlen(pages[i].body));
    static const char missing[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    return put(c, missing, sizeof missing - 1);
}

static int respond(conn *c, const char *head, const char *body, size_t len) {
    if (!strncmp(head, "GET", 3)) return put_get(c, head + 3);
    const char *stream = field(body, len, "\"stream\"");
    c->native = !strncmp(head, "POST /completion ", 17);
    prompts_total++;
    if (stream && *stream == 't') return start_stream(c, body, len);
    tokens_total++;
    const char *reply = c->native ? native_reply : strstr(head, "/embeddings ") ? vector_reply : chat_reply;
    return start_whole(c, reply, number(body, len, "\"bench_delay_us\"", 0));
}

/* ---- reading */

/* Answers what whole requests there are, in order; a running stream holds back the next. */
static int answer_all(conn *c) {
    while (!c->streaming && c->in_len) {
        char *body = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!body) return 0;
        body += 4;
        size_t head_len = (size_t)(body - c->in), have = c->in_len - head_len, len = 0;
        int chunked = 0;
        for (char *line = c->in; line < body;) {
            char *eol = memchr(line, '\n', (size_t)(body - line));
            if (!strncasecmp(line, "content-length:", 15)) len = strtoul(line + 15, NULL, 10);
            else if (!strncasecmp(line, "transfer-encoding:", 18)) chunked = 1;
            line = eol + 1;
        }
        if (chunked && !(len = chunked_len(body, have))) return 0;
        if (have < len) return 0;
        if (respond(c, c->in, body, len) < 0) return -1;
        c->in_len -= head_len + len;
        memmove(c->in, body + len, c->in_len);
    }
    return 0;
}

static int read_some(conn *c) {
    for (;;) {
        if (c->in_cap - c->in_len < READ_BYTES) c->in = grown(c->in, c->in_cap = c->in_cap ? c->in_cap * 2 : 2 * READ_BYTES);
        size_t room = c->in_cap - c->in_len;
        ssize_t got = recv(c->fd, c->in + c->in_len, room - 1, 0);
        if (got == 0) return -1;
        if (got < 0) return errno == EAGAIN ? 0 : -1;
        c->in_len += (size_t)got;
        c->in[c->in_len] = 0; /* strtoul stops here at the latest */
        if ((size_t)got < room - 1) return 0;
    }
}

static void drop(conn *c) {
    if (c->fd < 0) return;
    if (c->streaming) streams_now--;
    heap_remove(c);
    close(c->fd);
    c->fd = -1;
    c->next_dead = dead_list; /* freed after this turn: its events may still be queued */
    dead_list = c;
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        conn *c = grown(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        c->heap_at = -1;
        struct epoll_event e = {EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void on_event(conn *c, uint32_t events) {
    if (c->fd < 0) return;
    if (events & (EPOLLHUP | EPOLLERR)) { drop(c); return; }
    if ((events & EPOLLIN) && (read_some(c) < 0 || answer_all(c) < 0)) { drop(c); return; }
    if ((events & EPOLLOUT) && flush_pending(c) < 0) drop(c);
}

static void emit_due(void) {
    uint64_t now = now_ns();
    while (heap_len && heap[0]->due_ns <= now) {
        conn *c = heap[0];
        int bad;
        if (c->events_left > 0) {
            bad = put_token(c);
            c->due_ns += c->interval_ns;
            heap_down(0);
        } else {
            bad = end_stream(c) < 0 ? -1 : answer_all(c);
        }
        if (bad < 0) drop(c);
    }
}

static void serve(int listener) {
    static struct epoll_event events[MAX_EVENTS];
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec wait, *limit = NULL;
        if (heap_len) {
            uint64_t now = now_ns(), left = heap[0]->due_ns > now ? heap[0]->due_ns - now : 0;
            wait = (struct timespec){(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
            limit = &wait;
        }
        int n = epoll_pwait2(epoll_fd, events, MAX_EVENTS, limit, NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) on_event(events[i].data.ptr, events[i].events);
            else accept_all(listener);
        }
        emit_due();
        while (dead_list) {
            conn *c = dead_list;
            dead_list = c->next_dead;
            free(c->in);
            free(c->out);
            free(c);
        }
    }
}

/* ---- the command line */

static void help(void) {
    puts("----- common params -----\n");
    static const char *const flags[] = {
        "-m,    --model FNAME", "-a,    --alias STRING", "--host HOST", "--port PORT", "-c,    --ctx-size N",
        "-np,   --parallel N", "-t,    --threads N", "-b,    --batch-size N", "-ub,   --ubatch-size N",
        "-ngl,  --gpu-layers, --n-gpu-layers N", "--threads-http N", "-cram, --cache-ram N", "--metrics", "--no-ui",
        "--offline", "--sse-ping-interval N", "--api-key KEY", "--embedding, --embeddings", "--pooling {none,mean}",
        "-n,    --predict, --n-predict N", "--jinja", "--slot-save-path PATH", "-lm,   --load-mode {auto,none,mmap}",
        "--slots", "--no-slots", "--warmup, --no-warmup"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) printf("%-40s (ignored, except for the port)\n", flags[i]);
}

static void on_term(int number) { (void)number; _exit(0); } /* as llama-server when idle */

int main(int argc, char **argv) {
    int port = 8080, on = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--version")) { fputs("version: 0.0.1 (bench)\n", stderr); return 0; }
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) { help(); return 0; }
        if (!strcmp(argv[i], "--port") && i + 1 < argc) port = atoi(argv[++i]);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_term);
    signal(SIGINT, on_term);
    prctl(PR_SET_TIMERSLACK, 1); /* ns: chunks leave when they are due */
    make_reply(chat_reply, CHAT_HEAD, "x", CHAT_TAIL);
    make_reply(native_reply, NATIVE_HEAD, "x", NATIVE_TAIL);
    make_reply(vector_reply, VECTOR_HEAD, ",0.125", VECTOR_TAIL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        fprintf(stderr, "0.00.000.001 E srv  start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: %d\n", port);
        return 1;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    fprintf(stderr, "0.00.000.001 I srv  llama_server: listening on http://127.0.0.1:%d\n", port);
    serve(listener);
}
