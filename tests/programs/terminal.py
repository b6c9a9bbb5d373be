"""A person at a terminal of 80 columns and 24 rows: runs a program there, step by step, and looks at its screen.

    terminal.py STEPS PROGRAM ARGUMENT...

STEPS is JSON, a list of lists: ["sees", text] waits until the screen shows it, ["sees not", text] until it does not, ["types", text], ["resizes", rows, columns],
["signals", "TERM"], ["ends", code] waits for the program's end and looks whether the terminal is as it was. A signal's exit code is negative.
Exit code 0 if all came so; else 1, with the screen on standard error.
"""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

# It bounds a hang.
LONGEST_S = 60
CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]|[\x00-\x1f]")


class Terminal:
    """The screen, as far as programs use it that move the cursor and print."""

    def __init__(self, rows, columns):
        self.master, self.slave = os.openpty()
        self.raw = ""
        self.rest = b""
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)

    def resize(self, rows, columns):
        self.size = (rows, columns)
        self.cells = [[" "] * columns for _ in range(rows)]
        self.at = (0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        if not select.select([self.master], [], [], seconds)[0]:
            return
        data = self.rest + os.read(self.master, 65536)
        # A control sequence or a letter may be cut off at the end.
        for cut in range(len(data), max(len(data) - 32, -1), -1):
            try:
                text = data[:cut].decode()
            except UnicodeDecodeError:
                continue
            if not re.search(r"\x1b[^A-Za-z]*$", text):
                break
        else:
            text, cut = data.decode(errors="replace"), len(data)
        self.rest = data[cut:]
        self.raw += text
        place = 0
        while place < len(text):
            control = CONTROL.match(text, place)
            if control:
                self.obey(control)
                place = control.end()
            else:
                self.put(text[place])
                place += 1

    def put(self, letter):
        row, column = self.at
        if row < self.size[0] and column < self.size[1]:
            self.cells[row][column] = letter
        self.at = (row, column + 1)

    def obey(self, control):
        numbers, what = control.group(1), control.group(2)
        if what == "H":
            row, _, column = numbers.partition(";")
            self.at = (int(row or 1) - 1, int(column or 1) - 1)
        elif what == "J" or (what == "h" and numbers == "?1049"):
            self.cells = [[" "] * self.size[1] for _ in range(self.size[0])]
        elif control.group(0) == "\r":
            self.at = (self.at[0], 0)
        elif control.group(0) == "\n":
            self.at = (self.at[0] + 1, self.at[1])

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cells)


def run(steps, command):
    terminal = Terminal(24, 80)

    def lead():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    program = subprocess.Popen(command, stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, preexec_fn=lead)

    def until(is_so, what):
        end = time.monotonic() + LONGEST_S
        while not is_so():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come")
            terminal.read(0.05)

    try:
        for step, *rest in steps:
            if step == "sees":
                until(lambda: rest[0] in terminal.text(), f"the text {rest[0]!r}")
            elif step == "sees not":
                until(lambda: rest[0] not in terminal.text(), f"the end of the text {rest[0]!r}")
            elif step == "types":
                os.write(terminal.master, rest[0].encode())
            elif step == "resizes":
                terminal.resize(*rest)
                program.send_signal(signal.SIGWINCH)
            elif step == "signals":
                program.send_signal(getattr(signal, f"SIG{rest[0]}"))
            elif step == "ends":
                until(lambda: program.poll() is not None, "the end")
                # What it wrote last may still be on its way.
                while select.select([terminal.master], [], [], 0.2)[0]:
                    terminal.read(0)
                assert program.returncode == rest[0], f"exit code {program.returncode} in place of {rest[0]}"
                assert terminal.raw.count("\x1b[?1049h") == terminal.raw.count("\x1b[?1049l"), "the other screen is still shown"
                assert terminal.raw.rfind("\x1b[?25h") >= terminal.raw.rfind("\x1b[?25l"), "the cursor is hidden"
                assert termios.tcgetattr(terminal.slave) == terminal.before, "the terminal is not as it was"
            elif step == "never wrote":
                assert rest[0] not in terminal.raw, f"{rest[0]!r} was written"
            else:
                raise AssertionError(f"no step {step!r}")
    except AssertionError as wrong:
        print(f"{wrong}; the screen:\n{terminal.text()}", file=sys.stderr)
        return 1
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
    return 0


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1]), sys.argv[2:]))
