"""A client as Claude Code is one: each line is an open to append, one write and a close.

    client.py write SESSION LOG     100 lines a second until SIGTERM; a missing directory is made, as Claude Code does
    client.py check SESSION LOG     the session has each acknowledged line, in order, once

A line that could not be opened for is tried again. A write that fails is not: nobody can know whether it was stored,
and the line may be there or not.
"""

import os
import re
import signal
import sys
import time

PATIENCE = 15

ended = []


def line(number):
    text = f"line {number} " * (20 + number * 37 % 400)
    return f'{{"type":"user","n":{number},"text":"{text}"}}\n'.encode()


def opened(session):
    since = time.monotonic()
    while not ended:
        try:
            return os.open(session, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            if time.monotonic() - since > PATIENCE:
                raise
            why = error
        try:
            if isinstance(why, FileNotFoundError):
                os.makedirs(os.path.dirname(session), 0o700, exist_ok=True)
                continue
        except OSError as error:
            why = error
        print(f"# {why}", flush=True)
        time.sleep(0.01)
    sys.exit()


def verdicts(log):
    with open(log) as file:
        return [(word, int(number)) for word, number in (entry.split() for entry in file if entry[0] != "#")]


def write(session, log):
    sys.stdout = open(log, "a")
    number = max((number for _, number in verdicts(log)), default=0)
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    while not ended:
        number += 1
        descriptor = opened(session)
        try:
            data = line(number)
            if os.write(descriptor, data) != len(data):
                sys.exit(f"a short write of line {number}")
            verdict = "stored"
        except OSError as error:
            verdict = "unknown"
            print(f"# {error}", flush=True)
        try:
            os.close(descriptor)
        except OSError as error:
            print(f"# close: {error}", flush=True)
        print(verdict, number, flush=True)
        time.sleep(0.01)


def check(session, log):
    stored = [number for word, number in verdicts(log) if word == "stored"]
    unknown = {number for word, number in verdicts(log) if word == "unknown"}
    with open(session, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    got = []
    for at, data in enumerate(lines):
        number = re.search(rb'"n":(\d+)', data)
        if not number or data != line(int(number[1])):
            sys.exit(f"line {at} of {len(lines)} is not what the client wrote: {data[:80]!r}")
        got.append(int(number[1]))
    missing = sorted(set(stored) - set(got))
    more = sorted(set(got) - set(stored) - unknown)
    twice = sorted({number for number in got if got.count(number) > 1})
    moved = [number for before, number in zip(got, got[1:]) if number < before]
    if missing or more or twice or moved:
        sys.exit(f"of {len(stored)} stored lines: missing {missing}, twice {twice}, late {moved}, never written {more}")
    print(f"{len(stored)} lines, each there once and in order; of {len(unknown)} writes that failed, {len(unknown & set(got))} are there")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
