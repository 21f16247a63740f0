/*
 * The CNI plugin's quick way: hand one call to the daemon, and print its answer.
 *
 * A container runtime starts this program for each container and interface. A Python interpreter takes longer to start
 * than the daemon takes to answer, so calls that succeed do without one. Everything else is done by sandnet-cni-python
 * beside this program, which words every error, and repeats what the daemon refuses for a moment: it gets the
 * configuration as its input, and the name of what failed.
 * docs/adr/0038-a-native-cni-plugin.md has the reasons, src/sandnet/cni the same steps in Python.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/sandnet/sandnet.sock"
#define MEDIA_TYPE "application/cni+json"
#define INPUT_LIMIT ((size_t)1 << 20)   /* bytes of a configuration: the limit of a request body in the daemon */
#define ANSWER_LIMIT ((size_t)16 << 20) /* bytes of an answer, far above what the daemon sends */
#define INPUT_SECONDS 10              /* that the runtime may take to write the configuration */
#define CONNECT_SECONDS 1             /* until a daemon that accepts no connection counts as away */
#define ANSWER_SECONDS 70             /* until a request counts as failed; the daemon answers after 60 at the latest */

struct bytes {
    char *data; /* followed by a zero byte that does not count */
    size_t length, room;
};

/* Give the call to the Python plugin; "failure" is a name of sandnet.cni.FAILURES, or NULL: it begins anew. */
static _Noreturn void hand_over(const struct bytes *input, const char *failure)
{
    char path[PATH_MAX + sizeof "-python"];
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX);
    int copy = memfd_create("sandnet-cni", 0);

    if (length > 0 && copy >= 0) {
        char *arguments[] = {path, (char *)failure, NULL};
        size_t written = 0;
        while (written < input->length) {
            ssize_t some = write(copy, input->data + written, input->length - written);
            if (some <= 0)
                break;
            written += (size_t)some;
        }
        strcpy(path + length, "-python");
        if (written == input->length && lseek(copy, 0, SEEK_SET) == 0 && dup2(copy, STDIN_FILENO) == STDIN_FILENO)
            execv(path, arguments);
    }
    printf("{\"cniVersion\": \"1.0.0\", \"code\": 100, \"msg\": \"cannot start sandnet-cni-python, which belongs beside"
           " the plugin: %s\"}\n", strerror(errno));
    exit(1);
}

/* Make room for so many more bytes and the zero byte. */
static void reserve(struct bytes *bytes, size_t more)
{
    while (bytes->room < bytes->length + more + 1)
        bytes->room = bytes->room ? 2 * bytes->room : 8192;
    bytes->data = realloc(bytes->data, bytes->room);
    if (!bytes->data)
        abort();
    bytes->data[bytes->length] = '\0';
}

static void append(struct bytes *bytes, const char *text)
{
    size_t length = strlen(text);
    reserve(bytes, length);
    memcpy(bytes->data + bytes->length, text, length + 1);
    bytes->length += length;
}

/* Append a value of the environment, percent-encoded. */
static void append_encoded(struct bytes *bytes, const char *text)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_/";
    for (; text && *text; text++) {
        char encoded[4] = {*text, '\0'};
        if (!strchr(plain, *text))
            snprintf(encoded, sizeof encoded, "%%%02X", (unsigned char)*text);
        append(bytes, encoded);
    }
}

static long long milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Append one piece that the descriptor has within the time; return its length, 0 at the end, -1 with errno. */
static ssize_t receive(int descriptor, struct bytes *bytes, long long deadline)
{
    struct pollfd readable = {.fd = descriptor, .events = POLLIN};
    for (;;) {
        long long left = deadline - milliseconds();
        int ready = left > 0 ? poll(&readable, 1, (int)left) : 0;
        if (ready == 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        reserve(bytes, 65536);
        ssize_t some = ready < 0 ? -1 : read(descriptor, bytes->data + bytes->length, 65536);
        if (some < 0 && errno == EINTR)
            continue;
        if (some > 0)
            bytes->data[bytes->length += (size_t)some] = '\0';
        return some;
    }
}

static struct bytes configuration(void)
{
    struct bytes input = {0};
    long long deadline = milliseconds() + INPUT_SECONDS * 1000LL;
    ssize_t some;

    reserve(&input, 0);
    while ((some = receive(STDIN_FILENO, &input, deadline)) > 0 && input.length <= INPUT_LIMIT)
        ;
    if (some < 0)
        hand_over(&input, errno == ETIMEDOUT ? "input-late" : "input-unreadable");
    if (input.length > INPUT_LIMIT)
        hand_over(&input, "input-large");
    return input;
}

/* Return the daemon's socket; NULL: the Python plugin has to find it out, or to refuse it. */
static const char *socket_path(const struct bytes *input)
{
    const char *url = getenv("SANDNET_HOST");

    if (memmem(input->data, input->length, "\"socket\"", 8))
        return NULL;
    if (!url || !*url)
        return DEFAULT_SOCKET;
    if (strncmp(url, "unix://", 7) == 0)
        url += 7;
    return *url == '/' ? url : NULL;
}

static int connected(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    int connection;

    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0 || setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) ||
        connect(connection, (struct sockaddr *)&address, sizeof address))
        return -1;
    limit.tv_sec = ANSWER_SECONDS;
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return connection;
}

static struct bytes request(const char *command, const struct bytes *input)
{
    static const char *const variables[][2] = {{"?container=", "CNI_CONTAINERID"},
                                               {"&netns=", "CNI_NETNS"},
                                               {"&ifname=", "CNI_IFNAME"},
                                               {"&args=", "CNI_ARGS"}};
    struct bytes message = {0};
    char length[32];

    snprintf(length, sizeof length, "%zu", input->length);
    append(&message, "POST /cni/");
    append(&message, command);
    for (size_t each = 0; each < sizeof variables / sizeof *variables; each++) {
        append(&message, variables[each][0]);
        append_encoded(&message, getenv(variables[each][1]));
    }
    append(&message, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     "Content-Length: ");
    append(&message, length);
    append(&message, "\r\n\r\n");
    reserve(&message, input->length);
    memcpy(message.data + message.length, input->data, input->length);
    message.length += input->length;
    return message;
}

/* Send the request, and return all that the daemon sends until it closes the connection. */
static struct bytes exchange(int connection, const struct bytes *message, const struct bytes *input)
{
    struct bytes answer = {0};
    ssize_t some;

    for (size_t sent = 0; sent < message->length; sent += (size_t)some) {
        some = send(connection, message->data + sent, message->length - sent, MSG_NOSIGNAL);
        if (some < 0 && errno != EINTR)
            hand_over(input, errno == EAGAIN ? "answer-late" : "answer-broken");
        if (some < 0)
            some = 0;
    }
    reserve(&answer, 0);
    while ((some = receive(connection, &answer, milliseconds() + ANSWER_SECONDS * 1000LL)) > 0)
        if (answer.length > ANSWER_LIMIT)
            hand_over(input, "answer-broken");
    if (some < 0)
        hand_over(input, errno == ETIMEDOUT ? "answer-late" : "answer-broken");
    return answer;
}

/* Return the value of a header field, "" where it is missing. The head ends with a zero byte. */
static const char *field(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return "";
}

int main(void)
{
    static const char *const commands[][2] = {
        {"ADD", "add"}, {"DEL", "del"}, {"CHECK", "check"}, {"GC", "gc"}, {"STATUS", "status"}};
    const char *given = getenv("CNI_COMMAND"), *command = NULL, *path;
    struct bytes input = configuration(), message, answer;
    int connection, status = 0;
    char *body, *end;

    for (size_t each = 0; given && each < sizeof commands / sizeof *commands; each++)
        if (strcmp(given, commands[each][0]) == 0)
            command = commands[each][1];
    path = socket_path(&input);
    connection = command && path ? connected(path) : -1;
    if (connection < 0)
        hand_over(&input, NULL);
    message = request(command, &input);
    answer = exchange(connection, &message, &input);
    body = strstr(answer.data, "\r\n\r\n");
    if (!body || sscanf(answer.data, "HTTP/%*s %d ", &status) != 1)
        hand_over(&input, "answer-broken");
    body[2] = '\0';
    body += 4;
    end = answer.data + answer.length;
    if ((size_t)(end - body) < strtoul(field(answer.data, "Content-Length"), NULL, 10))
        hand_over(&input, "answer-broken");
    if (*field(answer.data, "Retry-After") ||
        strncmp(field(answer.data, "Content-Type"), MEDIA_TYPE, strlen(MEDIA_TYPE)) != 0)
        hand_over(&input, NULL);
    fwrite(body, 1, (size_t)(end - body), stdout);
    return fflush(stdout) == 0 && status == 200 ? 0 : 1;
}
