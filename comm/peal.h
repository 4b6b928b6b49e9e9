/* The comm layer for C99 and every language that can call C: communicators and gradient buckets as
 * opaque handles. The contract is that of comm/communicator.h and comm/buckets.h; this page says
 * what C adds. How a communicator over MPI is made: comm/mpi_comm.h.
 *
 * Errors: a function that can fail returns a peal_status, and then peal_last_error() says in words
 * where, what was given and what is allowed. No exception leaves these functions and none of them
 * ends the process, but for peal_exit_process of comm/mpi_comm.h. Output arguments are written on
 * success only.
 *
 * Calls: `name` says in messages what a call is for, and is compared between ranks. Memory is host
 * memory, but for communicators of a device. With a `request` a call is asynchronous: its memory
 * must stay as it is until peal_wait; with NULL that is done before the function returns.
 *
 * Option structs begin with their own size, so that a program and a library of different age
 * understand each other: initialise them with the macro beside the struct, then set fields.
 *
 * Threads: one thread at a time uses a handle; peal_abort may come from any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A caller may hand over any number; in C++ only an enum of fixed type can hold it. */
#ifdef __cplusplus
#define PEAL_ENUM : int
extern "C" {
#else
#define PEAL_ENUM
#endif

typedef enum peal_status PEAL_ENUM {
  PEAL_OK = 0,
  PEAL_ERROR_INTERNAL = 1, /* anything else */
  PEAL_ERROR_INPUT = 2,    /* a wrong argument, or a peer that met wrong input */
  PEAL_ERROR_PEER = 3,     /* another rank or the network failed, or a deadline has passed */
  PEAL_ERROR_NUMERIC = 4   /* ranks that are out of step */
} peal_status;

typedef enum peal_dtype PEAL_ENUM {
  PEAL_F64 = 0,
  PEAL_F32 = 1,
  PEAL_F16 = 2,
  PEAL_BF16 = 3,
  PEAL_I64 = 4,
  PEAL_I32 = 5,
  PEAL_I8 = 6,
  PEAL_U8 = 7,
  PEAL_BOOL = 8
} peal_dtype;

typedef enum peal_op PEAL_ENUM {
  PEAL_SUM = 0,
  PEAL_MEAN = 1,
  PEAL_MIN = 2,
  PEAL_MAX = 3,
  PEAL_PRODUCT = 4
} peal_op;

typedef enum peal_algorithm PEAL_ENUM {
  PEAL_AUTOMATIC = 0,
  PEAL_RING = 1,
  PEAL_ORDERED_TREE = 2 /* sums in the order of a fixed tree over the ranks */
} peal_algorithm;

typedef enum peal_reduction PEAL_ENUM {
  PEAL_RANK_INVARIANT = 0, /* any number of ranks: the same bits */
  PEAL_REPEATABLE = 1,     /* the same number of ranks: the same bits */
  PEAL_FAST = 2
} peal_reduction;

/* What gradients become to travel; comm/buckets.h says more. */
typedef enum peal_compression PEAL_ENUM {
  PEAL_COMPRESSION_NONE = 0,
  PEAL_COMPRESSION_HALF = 1, /* 16 bits: `wire` */
  PEAL_COMPRESSION_INT8 = 2  /* 8 bits with error feedback; not with PEAL_RANK_INVARIANT */
} peal_compression;

typedef struct peal_comm peal_comm;       /* a communicator */
typedef struct peal_buffer peal_buffer;   /* memory that peers on this host read directly */
typedef struct peal_buckets peal_buckets; /* gradient buckets */
typedef uint64_t peal_request;            /* a call that was started; 0: nothing to wait for */

#define PEAL_NO_GROUP (-1) /* colour of a rank that is to be in no group */
#define PEAL_CPU (-1) /* device of a staged communicator: host memory, to try one without a GPU */

typedef struct peal_comm_options {
  size_t size;
  int shared_memory;       /* 0: MPI even between ranks of one host */
  double deadline_seconds; /* of every wait */
  const char* tune_file;   /* costs to choose ways by; "": built-in ones; NULL: $PEAL_TUNE or the
                            * default place (comm/README.md). Rank 0's holds for all. */
} peal_comm_options;
#define PEAL_COMM_OPTIONS \
  { sizeof(peal_comm_options), 1, 300.0, NULL }

typedef struct peal_device_options {
  size_t size;
  size_t chunk_bytes; /* staged: of pinned memory, of which there are two */
  int compare_calls;  /* nccl: ranks compare every call, not the first 256 alone */
} peal_device_options;
#define PEAL_DEVICE_OPTIONS \
  { sizeof(peal_device_options), (size_t)4 << 20, 0 }

typedef struct peal_bucket_options {
  size_t size;
  size_t bucket_bytes;
  peal_reduction reduction;
  int virtual_ranks; /* for PEAL_RANK_INVARIANT: at least as many as ranks */
  peal_compression compression;
  peal_dtype wire;    /* PEAL_F16 or PEAL_BF16 */
  float wire_scale;   /* PEAL_F16: a power of two */
  size_t int8_block;  /* values that share a scale, a multiple of 4 up to 4096 */
  size_t exact_bytes; /* at the start of the arena, travel as f32; a multiple of 64 */
} peal_bucket_options;
#define PEAL_BUCKET_OPTIONS                                                                       \
  {                                                                                               \
    sizeof(peal_bucket_options), (size_t)1 << 20, PEAL_FAST, 1, PEAL_COMPRESSION_NONE, PEAL_BF16, \
        1.0f, 256, 0                                                                              \
  }

const char* peal_version(void);
/* Why the last function of this thread that failed did; "" before any has. Valid until the next. */
const char* peal_last_error(void);

/* Communicators. */
peal_status peal_comm_create_single(peal_comm** out); /* a world of one, without MPI */
/* run(rank's communicator, context) on `ranks` threads of this process. A value that is not
 * PEAL_OK, returned by one of them, ends the others' waits and is returned with its message. */
peal_status peal_run_local_ranks(int ranks, peal_status (*run)(peal_comm* comm, void* context),
                                 void* context);
/* NULL is allowed. Waits for nobody; peers that still wait for this rank fail and name it. */
void peal_comm_free(peal_comm* comm);
/* Groups, collective; *out is NULL on a rank that is in none. The new handle is freed by its own
 * peal_comm_free and may outlive `comm`. A failure or abort of one is a failure of all handles that
 * were split from one another: every rank that waits in any of them hears the cause. */
peal_status peal_split(peal_comm* comm, int colour, int key, peal_comm** out);
peal_status peal_make_group(peal_comm* comm, const int* ranks, int count, peal_comm** out);

/* For the memory of CUDA device `device`, made over `host`, which stays the caller's and free for
 * other calls (comm/device_comm.h says more of both). Arrays of calls, peal_allocate and buckets
 * lie on the device; compression and peal_buckets_add_nodes are refused there. A call begins after
 * the work that is in the communicator's stream, and peal_wait, or a call without a request, makes
 * that stream wait for its end, not the host. `options` may be NULL. Collective. staged: through
 * pinned host memory and `host`; several ranks may share a GPU. nccl: NCCL, one rank a GPU. */
peal_status peal_comm_create_staged(peal_comm* host, int device, const peal_device_options* options,
                                    peal_comm** out);
peal_status peal_comm_create_nccl(peal_comm* host, int device, const peal_device_options* options,
                                  peal_comm** out);
/* The stream of later calls with this handle, a cudaStream_t, which stays the caller's; NULL, as it
 * is at first: the legacy default stream. Groups split later begin with NULL. */
peal_status peal_set_stream(peal_comm* comm, void* stream);

/* -1, with a last error, when `comm` is NULL. */
int peal_rank(const peal_comm* comm);
int peal_world_size(const peal_comm* comm);
int peal_local_rank(const peal_comm* comm); /* within this host */
int peal_local_size(const peal_comm* comm);
/* Copies at most `bytes`, a closing zero included: "host"; "rank 3 (node7)". */
peal_status peal_backend(const peal_comm* comm, char* text, size_t bytes);
peal_status peal_rank_name(const peal_comm* comm, int rank, char* text, size_t bytes);

peal_status peal_set_deadline(peal_comm* comm, double seconds);
peal_status peal_set_step(peal_comm* comm, int64_t step); /* for messages */
/* Where the flight record is written when a call fails and on SIGUSR2; "": nowhere. */
peal_status peal_set_flight_directory(peal_comm* comm, const char* directory);
/* Tells the peers why this rank leaves; exit_code 2 and 4 reach them as PEAL_ERROR_INPUT and
 * PEAL_ERROR_NUMERIC, all others as PEAL_ERROR_PEER. */
peal_status peal_abort(peal_comm* comm, const char* cause, int exit_code);

/* Collective: every rank asks for as many bytes, and frees alike, before it frees `comm`. Zeroed.
 */
peal_status peal_allocate(peal_comm* comm, size_t bytes, peal_buffer** out);
void* peal_buffer_data(const peal_buffer* buffer); /* NULL, with a last error, for NULL */
void peal_buffer_free(peal_buffer* buffer);        /* NULL is allowed */

/* Calls. What may overlap, and what is used on the root only, comm/communicator.h says of each. */
peal_status peal_all_reduce(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_op op, peal_algorithm algorithm,
                            peal_request* request);
/* f32. partials[i]: the sum of this rank's i-th node (peal_tree_nodes). */
peal_status peal_all_reduce_tree(peal_comm* comm, const char* name, int virtual_ranks,
                                 const void* const* partials, int partial_count, void* y,
                                 int64_t count, peal_request* request);
/* y: `count` elements, x: world_size times as many. */
peal_status peal_reduce_scatter(peal_comm* comm, const char* name, const void* x, void* y,
                                int64_t count, peal_dtype dtype, peal_op op, peal_request* request);
/* x: `count` elements, y: world_size times as many, in rank order. */
peal_status peal_all_gather(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_request* request);
peal_status peal_broadcast(peal_comm* comm, const char* name, void* x, int64_t count,
                           peal_dtype dtype, int root, peal_request* request);
/* ys[i]: all_reduce of xs[i], counts[i] elements, for `tensors` of them, as one call. */
peal_status peal_all_reduce_group(peal_comm* comm, const char* name, const void* const* xs,
                                  void* const* ys, const int64_t* counts, int tensors,
                                  peal_dtype dtype, peal_op op, peal_request* request);
peal_status peal_reduce(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                        peal_dtype dtype, peal_op op, int root, peal_request* request);
/* `count` elements for every rank, in rank order, in y of gather, x of scatter, both of
 * all_to_all. */
peal_status peal_gather(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                        peal_dtype dtype, int root, peal_request* request);
peal_status peal_scatter(peal_comm* comm, const char* name, const void* x, void* y, int64_t count,
                         peal_dtype dtype, int root, peal_request* request);
peal_status peal_all_to_all(peal_comm* comm, const char* name, const void* x, void* y,
                            int64_t count, peal_dtype dtype, peal_request* request);
/* The same with counts[r] elements for rank r: world_size counts, the same on every rank; but for
 * all_to_all, where they are what this rank sends to, and receives from, rank r. */
peal_status peal_reduce_scatter_v(peal_comm* comm, const char* name, const void* x, void* y,
                                  const int64_t* counts, peal_dtype dtype, peal_op op,
                                  peal_request* request);
/* all_reduce_tree, of which rank r gets block r; every partial has all blocks. f32. */
peal_status peal_reduce_scatter_tree(peal_comm* comm, const char* name, int virtual_ranks,
                                     const void* const* partials, int partial_count, void* y,
                                     const int64_t* counts, peal_request* request);
peal_status peal_all_gather_v(peal_comm* comm, const char* name, const void* x, void* y,
                              const int64_t* counts, peal_dtype dtype, peal_request* request);
peal_status peal_gather_v(peal_comm* comm, const char* name, const void* x, void* y,
                          const int64_t* counts, peal_dtype dtype, int root, peal_request* request);
peal_status peal_scatter_v(peal_comm* comm, const char* name, const void* x, void* y,
                           const int64_t* counts, peal_dtype dtype, int root,
                           peal_request* request);
peal_status peal_all_to_all_v(peal_comm* comm, const char* name, const void* x, void* y,
                              const int64_t* send_counts, const int64_t* receive_counts,
                              peal_dtype dtype, peal_request* request);
/* Between two ranks; the others take no part. */
peal_status peal_send(peal_comm* comm, const char* name, const void* x, int64_t count,
                      peal_dtype dtype, int to, peal_request* request);
peal_status peal_recv(peal_comm* comm, const char* name, void* y, int64_t count, peal_dtype dtype,
                      int from, peal_request* request);
peal_status peal_barrier(peal_comm* comm, const char* name, peal_request* request);

peal_status peal_wait(peal_comm* comm, peal_request request);
peal_status peal_test(peal_comm* comm, peal_request request, int* done);

/* Every rank brings the same values under the same names, or all fail and name the odd rank out. */
peal_status peal_agree(peal_comm* comm, const char* const* names, const char* const* values,
                       int count);

/* The tree over virtual ranks (comm/tree.h): the block [*begin, *end) that a rank runs, and the
 * nodes whose sums it brings. peal_tree_nodes writes at most `room` nodes as pairs (begin, end) and
 * sets *count to how many there are. */
peal_status peal_tree_block(int virtual_ranks, int ranks, int rank, int* begin, int* end);
peal_status peal_tree_nodes(int virtual_ranks, int ranks, int rank, int* pairs, int room,
                            int* count);

/* Gradient buckets over `comm`, which must outlive them. Collective. `options` may be NULL. */
peal_status peal_buckets_create(peal_comm* comm, size_t arena_bytes,
                                const peal_bucket_options* options, peal_buckets** out);
void peal_buckets_free(peal_buckets* buckets); /* NULL is allowed */
/* How many partial sums this rank brings, and where they are: arena_bytes each. The total lands in
 * number 0. */
peal_status peal_buckets_partials(const peal_buckets* buckets, int* count);
peal_status peal_buckets_partial(peal_buckets* buckets, int index, void** data);
/* into += from over bytes [begin, end) of two arenas: two nodes of the tree become one, rounded as
 * they would be if two ranks held them. */
peal_status peal_buckets_add_nodes(peal_buckets* buckets, const void* from, void* into,
                                   size_t begin, size_t end);
/* PEAL_COMPRESSION_INT8: arena_bytes of what is added to this rank's next gradients; else NULL. */
peal_status peal_buckets_error(peal_buckets* buckets, void** data);
/* Every partial is final in [0, bytes_final): starts the buckets that this completes. */
peal_status peal_buckets_ready(peal_buckets* buckets, size_t bytes_final);
/* The same for slices [begin, end) in any order. */
peal_status peal_buckets_ready_slice(peal_buckets* buckets, size_t begin, size_t end);
/* Waits for every bucket in order; `on_bucket`, unless NULL, is told as each is complete. */
peal_status peal_buckets_finish(peal_buckets* buckets,
                                void (*on_bucket)(size_t begin, size_t end, void* context),
                                void* context);
peal_status peal_buckets_count(const peal_buckets* buckets, size_t* count);
peal_status peal_buckets_seconds_waited(const peal_buckets* buckets, double* seconds);

#ifdef __cplusplus
}
#endif
