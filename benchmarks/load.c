/* The two loops of the load generator, for Python's ctypes (see load.py, which has the same
 * loops in Python).  Plain sockets and epoll; no thread, no allocation after the start.
 *
 * drive:   every channel sends a batch, waits for its whole answer, sends the next.
 * deliver: in each round the channels that have a batch send it, and the round ends when all
 *          channels have the newlines they wait for (one writes, thousands listen).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CLOSED (-1)
#define SILENT (-2)
#define FAILED (-3)
#define SILENCE_MS 60000

struct channel {
    const char *data;    /* all its batches, one after the other */
    const long *offsets; /* where each begins; one more for the end of the last */
    long batches;        /* 0: it only listens */
    long next;           /* the batch to send next */
    long newlines;       /* that end an answer */
    long limit;          /* batches to send; 0: as many as there is time for */
    long missing;        /* newlines still to come */
    long done;           /* batches answered */
    long bytes;          /* received */
    double sent;         /* when the last batch was sent */
    int fd;
    int record;          /* keep its round trip times */
    int paced;           /* sends at a tick, not at once */
    int waiting;
};

static char buffer[1 << 18];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static long count_newlines(const char *data, long size)
{
    long found = 0;
    for (long i = 0; i < size; i++)
        found += data[i] == '\n';
    return found;
}

static int send_batch(struct channel *c)
{
    const char *data = c->data + c->offsets[c->next];
    long left = c->offsets[c->next + 1] - c->offsets[c->next];
    c->next = (c->next + 1) % c->batches;
    c->missing = c->newlines;
    c->waiting = 1;
    if (c->record)
        c->sent = now();
    while (left > 0) {
        long sent = send(c->fd, data, left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
            struct pollfd p = {c->fd, POLLOUT, 0};
            if (poll(&p, 1, SILENCE_MS) == 0)
                return SILENT;
            continue;
        }
        if (sent < 0)
            return CLOSED;
        data += sent;
        left -= sent;
    }
    return 0;
}

static int receive(struct channel *c)
{
    long got = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        return CLOSED;
    c->bytes += got;
    c->missing -= count_newlines(buffer, got);
    return 0;
}

static int watch_all(struct channel *channels, int count)
{
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; poller >= 0 && i < count; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, channels[i].fd, &e) < 0) {
            close(poller);
            return -1;
        }
    }
    return poller;
}

static int finished(const struct channel *c)
{
    return c->limit && c->done >= c->limit;
}

/* seconds: when to stop sending (what is under way is still waited for), or earlier, when all
 * channels with a limit have reached it.  tick: seconds between the batches of a paced channel.
 * times: takes the round trip times of the channels that record, at most `capacity`. */
int drive(struct channel *channels, int count, double seconds, double tick, float *times,
          long capacity, long *recorded, double *elapsed)
{
    struct epoll_event events[256];
    int poller = watch_all(channels, count), status = 0, outstanding = 0, limited = 0, open = 1;
    double begin = now(), deadline = begin + seconds, next_tick = begin + tick, heard = begin;
    if (poller < 0)
        return FAILED;
    *recorded = 0;
    for (int i = 0; i < count && status == 0; i++) {
        limited += channels[i].limit > 0;
        status = send_batch(&channels[i]);
        outstanding++;
    }
    while (status == 0 && (outstanding > 0 || open)) {
        int ready = epoll_wait(poller, events, 256, tick > 0 ? 1 : 1000);
        double time = now();
        if (ready > 0)
            heard = time;
        else if (time - heard > SILENCE_MS / 1000)
            status = SILENT;
        if (time >= deadline)
            open = 0;
        for (int i = 0; i < ready && status == 0; i++) {
            struct channel *c = &channels[events[i].data.u32];
            status = receive(c);
            if (status || !c->waiting || c->missing > 0)
                continue;
            c->waiting = 0;
            c->done++;
            outstanding--;
            if (c->record && *recorded < capacity)
                times[(*recorded)++] = now() - c->sent;
            if (c->limit && c->done == c->limit && --limited == 0)
                open = 0;
            if (open && !c->paced && !finished(c)) {
                status = send_batch(c);
                outstanding++;
            }
        }
        if (tick > 0 && open && time >= next_tick) {
            next_tick = time + tick;
            for (int i = 0; i < count && status == 0; i++)
                if (channels[i].paced && !channels[i].waiting && !finished(&channels[i])) {
                    status = send_batch(&channels[i]);
                    outstanding++;
                }
        }
    }
    *elapsed = now() - begin;
    close(poller);
    return status;
}

/* times: takes for each round the seconds from the sending to the last newline. */
int deliver(struct channel *channels, int count, int rounds, float *times)
{
    struct epoll_event events[1024];
    int poller = watch_all(channels, count), status = 0;
    if (poller < 0)
        return FAILED;
    for (int round = 0; round < rounds && status == 0; round++) {
        int waiting = count;
        double begin = now();
        for (int i = 0; i < count; i++) {
            channels[i].missing = channels[i].newlines;
            channels[i].waiting = 1;
        }
        for (int i = 0; i < count && status == 0; i++)
            if (channels[i].batches)
                status = send_batch(&channels[i]);
        while (status == 0 && waiting > 0) {
            int ready = epoll_wait(poller, events, 1024, SILENCE_MS);
            if (ready == 0)
                status = SILENT;
            for (int i = 0; i < ready && status == 0; i++) {
                struct channel *c = &channels[events[i].data.u32];
                status = receive(c);
                if (status == 0 && c->waiting && c->missing <= 0) {
                    c->waiting = 0;
                    c->done++;
                    waiting--;
                }
            }
        }
        times[round] = now() - begin;
    }
    close(poller);
    return status;
}
