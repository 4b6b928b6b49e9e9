"""Drills of the communicator (comm_drill.py): over shared memory, over messages, and over the two hosts
of a test bed.

  comm_drill_test.py                 the rounds of the suite, drawn from a fixed seed
  comm_drill_test.py --all           every kind of call x every fault x every carrier
  comm_drill_test.py mpi/gather/stop/1/7 [--keep]    one round: carrier, call, fault, rank, seed
"""
import random
import sys

from comm_drill import DISAGREEMENTS, KINDS, RANKS, STILL, Round, main

CARRIERS = ["shared", "mpi", "hosts"]


def every_round(seed):
    draw = random.Random(seed)
    for carrier in CARRIERS:
        for kind in KINDS:
            for fault in (*STILL, "link", "pause", "throw", *DISAGREEMENTS[kind].split()):
                if (fault == "link") == (carrier == "hosts") or fault != "link":
                    # A pair that a cut shall part lies on two hosts.
                    rank = draw.randrange(RANKS[carrier])
                    yield Round(carrier, kind, fault, rank | 1 if fault == "link" else rank,
                                draw.randrange(1000))
    for kind in KINDS:
        yield Round("hosts-alone", kind, "kill", draw.randrange(RANKS["hosts-alone"]),
                    draw.randrange(1000))


def rounds_of_the_suite(seed):
    """Every call is stopped, killed and left over each carrier, and cut between hosts; of what else
    can go wrong with it, one disagreement and one milder fault. Over hosts, which take longest to
    start, one more round for every two calls; one for every four with each rank alone on its host."""
    draw = random.Random(seed)
    chosen, seen = [], {}
    for one in every_round(seed):
        if one.carrier.startswith("hosts"):
            always = one.fault == "link"
            group = (one.carrier, KINDS.index(one.kind) // (4 if one.alone else 2))
        else:
            always = one.fault in ("stop", "kill", "leave")
            group = (one.carrier, one.kind, one.fault in DISAGREEMENTS[one.kind].split())
        if always:
            chosen.append(one)
        else:
            seen.setdefault(group, []).append(one)
    for group, rounds in seen.items():
        chosen += draw.sample(rounds, 1)
    draw.shuffle(chosen)
    return chosen


if __name__ == "__main__":
    sys.exit(main(__doc__, every_round, rounds_of_the_suite))
