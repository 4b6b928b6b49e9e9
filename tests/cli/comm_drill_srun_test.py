"""Drills of the communicator (comm_drill.py) whose ranks a real Slurm starts on two hosts of a test
bed, `srun --mpi=pmix`, which ends a step a second after it has lost a rank of it.

Where each rank has a host of its own (`srun-alone`), one that is killed is named all the same.

  comm_drill_srun_test.py          the rounds of the suite, drawn from a fixed seed
  comm_drill_srun_test.py --all    every kind of call x every fault
  comm_drill_srun_test.py srun/gather/stop/1/7 [--keep]    one round
"""
import random
import sys

from comm_drill import DISAGREEMENTS, KINDS, RANKS, Round, main

FAULTS = ["stop", "kill", "leave", "link", "throw"]
KINDS_OF_THE_SUITE = ["all_reduce", "send_recv", "split"]


def rounds(draw, kinds, disagreements):
    for kind in kinds:
        for fault in [*FAULTS, *disagreements(DISAGREEMENTS[kind].split())]:
            rank = draw.randrange(RANKS["srun"])
            yield Round("srun", kind, fault, rank | 1 if fault == "link" else rank,
                        draw.randrange(1000))
    for kind in kinds:
        yield Round("srun-alone", kind, "kill", draw.randrange(RANKS["srun-alone"]),
                    draw.randrange(1000))


def every_round(seed):
    return rounds(random.Random(seed), KINDS, lambda all_of_them: all_of_them)


def rounds_of_the_suite(seed):
    draw = random.Random(seed)
    return rounds(draw, KINDS_OF_THE_SUITE, lambda all_of_them: [draw.choice(all_of_them)])


if __name__ == "__main__":
    sys.exit(main(__doc__, every_round, rounds_of_the_suite))
