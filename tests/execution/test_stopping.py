"""A process that is stopped by a signal says so in one line and ends in time, whatever it does."""

import signal
import subprocess
import sys

import pytest

from side_ray.execution.node.stopping import LINE

BEGIN = """
import hashlib, os, signal, sys, time
from side_ray.execution import stopping
stopping.PATIENCE_S = {patience}
computing = hashlib.pbkdf2_hmac, "sha256", b"", b"", 10**9  # in C, without Python's lock
def kill():
    print("killed", flush=True)
with stopping.stoppable(kill) as stop:
    try:
        print("begun", flush=True)
        {body}
    except BaseException:
        if stop.number:
            stop.leave()
        raise
"""
BODIES = {
    "waits": "time.sleep(60)",
    "computes": "computing[0](*computing[1:])",
    "another library handles the signal": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); time.sleep(60)",
    "another library ignores it": "signal.signal(signal.SIGTERM, lambda *_: None)\n        while True: time.sleep(1)",
    "stderr is closed for a while": "os.dup2(os.open(os.devnull, os.O_WRONLY), 2); computing[0](*computing[1:])",
}
FORCED = list(BODIES)[1:2] + list(BODIES)[3:]


@pytest.mark.parametrize("body", BODIES)
def test_a_stopped_process_says_so_once_and_ends(body):
    command = [sys.executable, "-c", BEGIN.format(body=BODIES[body], patience=0.5 if body in FORCED else 60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == f"{LINE}\n"
    assert printed == ("killed\n" if body in FORCED else "")


def test_the_first_of_many_signals_counts_and_the_blocks_on_the_way_out_end():
    body = "try: time.sleep(60)\n        finally: time.sleep(0.1); print('cleaned', flush=True)"
    command = [sys.executable, "-c", BEGIN.format(body=body, patience=60)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        printed, said = process.communicate(timeout=60)
    assert (process.returncode - 128, printed, said) in [
        (number, "cleaned\n", f"{LINE}\n") for number in (signal.SIGINT, signal.SIGTERM)
    ]
