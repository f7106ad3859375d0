/* A binary min-heap of paced streams, ordered by due time. The including file defines HEAP_ITEM, a struct with
 * `uint64_t due_ns` and `int heap_at` (its place in the heap, -1 while it is in none). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static void *grown(void *old, size_t size) {
    void *p = realloc(old, size);
    if (!p) { perror("realloc"); exit(1); }
    return p;
}

static HEAP_ITEM **heap;
static int heap_len, heap_cap;

static void heap_put(int at, HEAP_ITEM *c) { heap[at] = c; c->heap_at = at; }

static void heap_up(int at) {
    HEAP_ITEM *c = heap[at];
    for (; at && heap[(at - 1) / 2]->due_ns > c->due_ns; at = (at - 1) / 2) heap_put(at, heap[(at - 1) / 2]);
    heap_put(at, c);
}

static void heap_down(int at) {
    HEAP_ITEM *c = heap[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= heap_len) break;
        if (child + 1 < heap_len && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= c->due_ns) break;
        heap_put(at, heap[child]);
        at = child;
    }
    heap_put(at, c);
}

static void heap_add(HEAP_ITEM *c) {
    if (heap_len == heap_cap) heap = grown(heap, (size_t)(heap_cap = heap_cap ? heap_cap * 2 : 64) * sizeof *heap);
    heap_put(heap_len++, c);
    heap_up(c->heap_at);
}

static void heap_remove(HEAP_ITEM *c) {
    int at = c->heap_at;
    if (at < 0) return;
    c->heap_at = -1;
    HEAP_ITEM *last = heap[--heap_len];
    if (last == c) return;
    heap_put(at, last);
    heap_up(at);
    heap_down(last->heap_at);
}
