"""A handler that speaks the protocol by hand, and misbehaves as it is told: the first argument says how it starts, a payload's "do" what a task does."""

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

MODE = sys.argv[1] if len(sys.argv) > 1 else "well"
FOLDER = os.environ.get("FOLDER", "")
SOCKET = socket.socket(fileno=int(os.environ["GPUFLEET_HANDLER_FD"]))
READER = SOCKET.makefile("rb")
LOCK = threading.Lock()
SCHEMA = {"type": "object", "required": ["texts"], "properties": {"texts": {"type": "array", "items": {"type": "string"}}}}
KEPT = []
CANCELLED = set()
SICK = False


def send(message, *segments):
    if segments:
        message["segments"] = [len(segment) for segment in segments]
    text = json.dumps(message).encode()
    with LOCK:
        SOCKET.sendall(struct.pack(">I", len(text)) + text)
        for segment in segments:
            SOCKET.sendall(segment)


def read():
    length = READER.read(4)
    if len(length) < 4:
        os._exit(0)
    message = json.loads(READER.read(struct.unpack(">I", length)[0]))
    return message, [READER.read(length) for length in message.get("segments", [])]


def mark(name):
    with open(os.path.join(FOLDER, name), "a") as file:
        file.write("x")
        file.flush()
        return file.tell()


def answer(run, result, *segments, **more):
    send({"type": "result", "run": run, "result": result, **more}, *segments)


def until_cancelled(run):
    send({"type": "progress", "run": run, "fraction": 0.5, "message": "begun"})
    while run not in CANCELLED:
        time.sleep(0.01)


def work(task, segments):
    global SICK
    run, payload = task["run"], task["payload"]
    do = payload.get("do", "echo") if isinstance(payload, dict) else "echo"
    if do == "print":
        print("printed for people")
        os.write(1, b"\0\0\0\x02{}")
    elif do == "flood":
        os.write(2, b"x" * 1_000_000)
    elif do == "exit":
        os.write(2, b"about to die\n")
        os._exit(3)
    elif do == "segfault":
        ctypes.string_at(0)
    elif do == "garbage":
        SOCKET.sendall(b"Traceback (most recent call last)")
    elif do == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        # Another thread may be the one that takes it.
        time.sleep(60)
    elif do == "wait":
        until_cancelled(run)
        return send({"type": "error", "run": run, "message": "cancelled", "code": "cancelled"})
    elif do == "loop":
        send({"type": "progress", "run": run, "fraction": 0.5, "message": "begun"})
        while True:
            time.sleep(0.01)
    elif do == "late":
        until_cancelled(run)
        KEPT.append(run)
        return send({"type": "error", "run": run, "message": "cancelled", "code": "cancelled"})
    elif do == "after_late":
        for old in KEPT:
            answer(old, "of an old run")
        answer(run + 1000, "of a run to come")
    elif do == "parts":
        for number in range(3):
            send({"type": "part", "run": run, "value": number})
        send({"type": "progress", "run": run, "fraction": 0.75, "message": "nearly"})
    elif do == "fail":
        return send({"type": "error", "run": run, **payload["with"]})
    elif do == "grandchild":
        return answer(run, subprocess.Popen(["sleep", "600"]).pid)
    elif do == "grow":
        KEPT.append(b"x" * payload["bytes"])
        send({"type": "progress", "run": run, "fraction": 0.5, "message": "begun"})
        time.sleep(60)
    elif do == "pid":
        return answer(run, os.getpid())
    elif do == "environment":
        return answer(run, dict(os.environ))
    elif do == "sick":
        SICK = True
    answer(run, payload, *segments)


def together(batch):
    for number, member in enumerate(batch["members"]):
        if member["payload"] == "bad":
            send({"type": "error", "run": batch["run"], "member": number, "message": "bad member", "retry": False})
        else:
            answer(batch["run"], [member["payload"], len(batch["members"])], member=number)


def main():
    if MODE == "garbage":
        SOCKET.sendall(b"hello, I am a handler")
    kinds = [{"kind": "do", "about": "Does as it is told."}, {"kind": "texts", "schema": SCHEMA}, {"kind": "pairs", "batch": {"largest": 2, "wait_ms": 7}}]
    if MODE == "takes_tensors":
        kinds[0]["tensors"] = True
    if MODE == "broken_schema":
        kinds.append({"kind": "broken", "schema": {"type": "nonsense"}})
    if MODE == "fewer_kinds" and mark("starts") > 1:
        kinds = kinds[1:]
    if MODE == "silent":
        time.sleep(600)
    if MODE == "dies":
        sys.exit("no such model")
    send({"type": "hello", "version": 2 if MODE == "version_2" else 1, "kinds": kinds, "language": "python", "later": [1]})
    read()
    if MODE == "setup_fails_twice" and mark("starts") <= 2:
        send({"type": "setup_failed", "message": "no model there"})
        sys.exit(1)
    send({"type": "ready", "models": ["small"]})
    while True:
        message, segments = read()
        if message["type"] == "task":
            threading.Thread(target=work, args=(message, segments), daemon=True).start()
        elif message["type"] == "batch":
            together(message)
        elif message["type"] == "ping":
            send({"type": "pong", "n": message["n"], "healthy": not SICK, "reason": "it was told so"})
        elif message["type"] == "cancel":
            CANCELLED.add(message["run"])
        elif message["type"] == "drain":
            if FOLDER:
                mark("drained")
            sys.exit(7 if MODE == "drains_badly" else 0)


main()
