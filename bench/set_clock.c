/* A calendar clock that can be set, for one process: loaded with LD_PRELOAD, it adds the seconds that the file named by
 * SET_CLOCK_FILE holds (eight bytes, signed, this machine's order) to CLOCK_REALTIME.
 *
 * What waits until a time of that clock waits as it does on a machine whose clock is set: a wait that has begun goes on
 * until the clock, as set now, has reached its end. librdkafka waits by cnd_timedwait, which libfaketime does not know:
 * under it a wait of 100 ms begun two hours ahead lasts two hours, as it would on no machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE (SECOND / 20)
#define CALENDAR 1000000000LL /* no machine has been up for so many seconds: what is later is a time of the calendar */

static const int64_t *set;

__attribute__((constructor)) static void open_clock(void) {
    const char *name = getenv("SET_CLOCK_FILE");
    int file = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *seen = mmap(NULL, sizeof *set, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (seen != MAP_FAILED)
        set = seen;
}

static int64_t set_seconds(void) { return set == NULL ? 0 : __atomic_load_n(set, __ATOMIC_RELAXED); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = (int)syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += set_seconds();
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec spec;
    clock_gettime(CLOCK_REALTIME, &spec);
    now->tv_sec = spec.tv_sec;
    now->tv_usec = spec.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *also) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (also != NULL)
        *also = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *now, int base) { return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0; }

static int64_t nanoseconds(const struct timespec *at) { return at->tv_sec * SECOND + at->tv_nsec; }

static int wait_until(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static int (*wait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
    if (wait == NULL)
        *(void **)&wait = dlsym(RTLD_NEXT, "pthread_cond_clockwait"); /* of which glibc has one version */
    if (until->tv_sec < CALENDAR)
        return wait(condition, mutex, CLOCK_MONOTONIC, until);
    for (;;) {
        struct timespec now, end;
        clock_gettime(CLOCK_REALTIME, &now);
        int64_t left = nanoseconds(until) - nanoseconds(&now);
        clock_gettime(CLOCK_MONOTONIC, &end); /* one that is past lets go of the mutex all the same */
        int64_t at = nanoseconds(&end) + (left > SLICE ? SLICE : left > 0 ? left : 0);
        end = (struct timespec){.tv_sec = at / SECOND, .tv_nsec = at % SECOND};
        int woken = wait(condition, mutex, CLOCK_MONOTONIC, &end);
        if (woken != ETIMEDOUT || left <= 0)
            return woken;
    }
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    return wait_until(condition, mutex, until);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    /* glibc's C11 types are its POSIX ones by another name, and its own cnd_timedwait hands them on as they are */
    int woken = wait_until((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return woken == 0 ? thrd_success : woken == ETIMEDOUT ? thrd_timedout : thrd_error;
}
