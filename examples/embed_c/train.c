/* A training loop over MPI in C99; WITH_PEAL marks what changes when Peal adds up the corrections.
 * A perceptron of several classes learns from made-up records of small whole numbers, so that every
 * sum is exact and any number of ranks trains the same weights to the last bit.
 *
 *   mpirun -np 3 train_peal [FILE]    every rank writes its weights to FILE.RANK */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef WITH_PEAL
#include <peal/comm/mpi_comm.h>
#endif

enum { INPUTS = 32, CLASSES = 10, WEIGHTS = INPUTS * CLASSES, BATCH = 120, STEPS = 100 };

static void input_of(uint64_t record, float* x) {
  for (int i = 0; i < INPUTS; ++i) {
    uint64_t bits = (record * INPUTS + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 29)) * 0xbf58476d1ce4e5b9u;
    x[i] = (float)(bits >> 60) - 8.0f;
  }
}

static int class_of(const float* weights, const float* x) {
  int best = 0;
  float most = 0;
  for (int c = 0; c < CLASSES; ++c) {
    float score = 0;
    for (int i = 0; i < INPUTS; ++i) score += weights[c * INPUTS + i] * x[i];
    if (c == 0 || score > most) best = c;
    if (c == 0 || score > most) most = score;
  }
  return best;
}

/* Adds the correction of one record to `change`; returns 1 when it was taken for another class. */
static int learn(const float* weights, const float* teacher, uint64_t record, float* change) {
  float x[INPUTS];
  input_of(record, x);
  const int is = class_of(teacher, x), taken_for = class_of(weights, x);
  if (is == taken_for) return 0;
  for (int i = 0; i < INPUTS; ++i) {
    change[is * INPUTS + i] += x[i];
    change[taken_for * INPUTS + i] -= x[i];
  }
  return 1;
}

#ifdef WITH_PEAL
static void check(peal_status status) {
  if (status == PEAL_OK) return;
  fprintf(stderr, "%s\n", peal_last_error());
  peal_exit_process(status);
}
#endif

static void train(float* weights, int rank, int ranks) {
  float teacher[WEIGHTS], change[WEIGHTS];
  for (int c = 0; c < CLASSES; ++c) input_of(1000000 + (uint64_t)c, &teacher[c * INPUTS]);
#ifdef WITH_PEAL
  peal_comm* comm = NULL;
  check(peal_comm_create(MPI_COMM_WORLD, NULL, &comm));
#endif
  for (int step = 0; step < STEPS; ++step) {
    int mine = 0, wrong = 0;
    memset(change, 0, sizeof change);
    for (int b = rank * BATCH / ranks; b < (rank + 1) * BATCH / ranks; ++b) {
      mine += learn(weights, teacher, (uint64_t)(step * BATCH + b), change);
    }
#ifdef WITH_PEAL
    check(peal_all_reduce(comm, "change", change, change, WEIGHTS, PEAL_F32, PEAL_SUM,
                          PEAL_AUTOMATIC, NULL));
#else
    MPI_Allreduce(MPI_IN_PLACE, change, WEIGHTS, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
#endif
    for (int i = 0; i < WEIGHTS; ++i) weights[i] += change[i];
    MPI_Reduce(&mine, &wrong, 1, MPI_INT, MPI_SUM, 0, MPI_COMM_WORLD); /* goes on beside Peal */
    if (rank == 0 && step % 25 == 24) printf("step %d wrong %d of %d\n", step + 1, wrong, BATCH);
  }
#ifdef WITH_PEAL
  peal_comm_free(comm);
#endif
}

static void write_weights(const float* weights, const char* name, int rank) {
  char path[4096];
  snprintf(path, sizeof path, "%s.%d", name, rank);
  FILE* file = fopen(path, "wb");
  if (file == NULL) {
    perror(path);
    MPI_Abort(MPI_COMM_WORLD, 2);
    return;
  }
  fwrite(weights, sizeof(float), WEIGHTS, file);
  fclose(file);
}

int main(int argc, char** argv) {
  float weights[WEIGHTS] = {0};
  int rank = 0, ranks = 1;
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  train(weights, rank, ranks);
  if (argc > 1) write_weights(weights, argv[1], rank);
  MPI_Finalize();
  return 0;
}
