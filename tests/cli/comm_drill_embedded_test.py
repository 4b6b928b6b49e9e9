"""Drills of the communicator (comm_drill.py) in a host program that calls MPI_Init itself, at every
thread level, has MPI messages of its own under way, and uses the C++ or the C API: over shared
memory, over messages, and over the two hosts of a test bed.

  comm_drill_embedded_test.py          the rounds of the suite, drawn from a fixed seed
  comm_drill_embedded_test.py --all    every kind of call x every fault x every carrier; host programs
                                       take turns
  comm_drill_embedded_test.py mpi+c-single/gather/stop/1/7 [--keep]    one round
"""
import random
import sys

from comm_drill import DISAGREEMENTS, HOST_PROGRAMS, KINDS, RANKS, STILL, Round, main

BASES = ["shared", "mpi", "hosts"]
# What differs most: one meeting, groups of calls, pieces, a pair, and communicators.
KINDS_OF_THE_SUITE = ["all_reduce", "ragged", "send_recv", "make_group", "group"]


def rounds(draw, kinds, faults_of):
    """With every kind and carrier, the next host program."""
    made = 0
    for base in BASES:
        for kind in kinds:
            for fault in faults_of(base, kind):
                made += 1
                rank = draw.randrange(RANKS[base])
                yield Round(f"{base}+{HOST_PROGRAMS[made % len(HOST_PROGRAMS)]}", kind, fault,
                            rank | 1 if fault == "link" else rank, draw.randrange(1000))
        made += 3  # so that a kind does not meet the same program again


def every_round(seed):
    return rounds(random.Random(seed), KINDS, lambda base, kind: [
        *STILL, *(["link"] if base == "hosts" else []), "pause", "throw",
        *DISAGREEMENTS[kind].split()])


def rounds_of_the_suite(seed):
    """Per carrier and call: the fault that is slowest to show, one that ends a rank, and one that is
    known at once."""
    draw = random.Random(seed)
    return rounds(draw, KINDS_OF_THE_SUITE, lambda base, kind: [
        "link" if base == "hosts" else "stop", draw.choice(["kill", "leave"]),
        draw.choice(["throw", "pause", *DISAGREEMENTS[kind].split()])])


if __name__ == "__main__":
    sys.exit(main(__doc__, every_round, rounds_of_the_suite))
