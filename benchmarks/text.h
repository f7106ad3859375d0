/* Text of the upstream: its whole answers, and the little it must understand of what it is asked. */
#include <stdlib.h>
#include <string.h>

enum { REPLY_BYTES = 1024 };

#define CHAT_HEAD "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\""
#define CHAT_TAIL "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":10,\"total_tokens\":20}}"
#define CHAT_FIELDS "\"created\":1700000000,\"id\":\"chatcmpl-1\",\"model\":\"bench\",\"system_fingerprint\":\"bench\",\"object\":\"chat.completion.chunk\""
#define NATIVE_HEAD "{\"index\":0,\"stop\":true,\"model\":\"bench\",\"tokens_predicted\":10,\"tokens_evaluated\":10,\"stop_type\":\"limit\",\"content\":\""
#define NATIVE_TAIL "\"}"

#define VECTOR_HEAD "{\"object\":\"list\",\"model\":\"bench\",\"usage\":{\"prompt_tokens\":10,\"total_tokens\":10},\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0"
#define VECTOR_TAIL "]}]}"

static char chat_reply[REPLY_BYTES + 1], native_reply[REPLY_BYTES + 1], vector_reply[REPLY_BYTES + 1];

/* The filling is repeated whole, so that a list of numbers stays one; blanks take up the rest. */
static void make_reply(char *reply, const char *head, const char *filling, const char *tail) {
    size_t at = strlen(head), step = strlen(filling), end = REPLY_BYTES - strlen(tail);
    memset(reply, ' ', REPLY_BYTES);
    memcpy(reply, head, at);
    for (; at + step <= end; at += step) memcpy(reply + at, filling, step);
    memcpy(reply + end, tail, strlen(tail));
}

/* The value of a JSON field, wherever it stands; NULL when absent. Good enough for bodies we wrote ourselves. */
static const char *field(const char *body, size_t len, const char *quoted_name) {
    const char *at = memmem(body, len, quoted_name, strlen(quoted_name)), *end = body + len;
    if (!at) return NULL;
    for (at += strlen(quoted_name); at < end && (*at == ' ' || *at == ':'); at++) {}
    return at < end ? at : NULL;
}

static long number(const char *body, size_t len, const char *quoted_name, long otherwise) {
    const char *at = field(body, len, quoted_name);
    return at ? atol(at) : otherwise;
}

/* Bytes of a chunked body from `at`, 0 when it is not all here. */
static size_t chunked_len(const char *at, size_t len) {
    const char *start = at, *end = at + len;
    for (;;) {
        char *eol = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!eol) return 0;
        size_t size = strtoul(at, NULL, 16);
        at = eol + 2;
        if ((size_t)(end - at) < size + 2) return 0;
        at += size + 2;
        if (!size) return (size_t)(at - start);
    }
}
