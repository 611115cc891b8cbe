#!/usr/bin/python3
"""Run OpenSSH's own regress scripts against the gateway and write the table docs/conformance.md.

The scripts come from Debian's `openssh-tests`; the client programs are the stock ones. `bin/sshd` stands in for
sshd: it turns the sshd_config that a script wrote into the gateway's TOML, starts a gateway with a sandbox whose
name is the login name, and either listens (`sshd -f`) or relays one connection (`sshd -i`).

The scripts that copy files run a second time without a gateway, with `sandgate-sftp-server` and `sandgate-scp` in place of
OpenSSH's programs.

`scripts.tsv` lists every script with what is expected of it, and those of newer releases of OpenSSH that the package lacks, with
the test that stands in for each. The exit status is 1 when a script that should pass fails, when a script is not listed, or when one
that is listed as failing passes, or as lacking is there (the list must then be corrected).

`--server sshd` runs the same scripts against the real sshd: the baseline that tells which ones this machine can
pass at all.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REGRESS = pathlib.Path("/usr/lib/openssh/regress")
# The shared objects of the regress suite that scripts expect beside their scratch files.
OBJ_FILES = ["netcat", "mkdtemp", "modpipe", "setuid-allowed", "check-perm"]
# The file servers that also exist without a gateway.
PROGRAMS = ["sandgate-sftp-server", "sandgate-scp"]
KEY_TYPES = ["ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384",
             "ecdsa-sha2-nistp521", "sk-ecdsa-sha2-nistp256@openssh.com", "ssh-rsa", "ssh-dss"]
# Scripts that forward connections between ports of one machine: their sandbox has the network of the machine.
ONE_NETWORK = {"agent", "connection-timeout", "dynamic-forward", "forward-control", "forwarding", "multiplex"}
# What is expected of a script that is not to be run: it cannot apply, or Debian's package does not have it.
NOT_RUN = ("n/a", "absent")
# A script that takes longer than this is stuck; the longest with real sshd (rekey) needs about two minutes.
DEFAULT_LIMIT = 420


class Row:
    """One line of scripts.tsv: the script, what it is run against ("gateway" or "program"), what is expected, and why."""

    def __init__(self, name, expect, note):
        self.name, _, way = name.partition("@")
        self.way, self.expect, self.note = way or "gateway", expect, note
        self.result = expect if expect in NOT_RUN else "not run"
        self.seconds = None
        self.detail = ""

    def ok(self):
        if self.expect in NOT_RUN:
            return True
        if self.expect == "pass":
            return self.result == "pass"
        return self.result == "fail"  # known failure: a pass must be noticed

    def log_name(self):
        return f"{self.name}.log" if self.way == "gateway" else f"{self.name}.{self.way}.log"

    def copies_files(self):
        return self.name.startswith(("scp", "sftp"))


def read_rows():
    rows = []
    for line in (HERE / "scripts.tsv").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        fields = [f.strip() for f in line.split("\t") if f.strip()]
        rows.append(Row(fields[0], fields[1], fields[2] if len(fields) > 2 else ""))
    return rows


def unlisted(rows):
    """Scripts of the installed suite that nobody has judged yet."""
    helpers = {"test-exec", "sshd-log-wrapper", "scp-ssh-wrapper", "ssh2putty", "valgrind-unit"}
    known = {r.name for r in rows} | helpers
    return sorted(p.stem for p in REGRESS.glob("*.sh") if p.stem not in known)


def no_longer_absent(rows):
    """Scripts that are listed as lacking and are there."""
    return sorted({r.name for r in rows if r.expect == "absent" and (REGRESS / f"{r.name}.sh").exists()})


def in_user_namespace():
    return pathlib.Path("/proc/self/uid_map").read_text().split() != ["0", "0", str(2**32 - 1)]


def free_port_block(index):
    """A port with nine free ones above it: scripts use PORT+1 and so on without asking."""
    base = 21000 + (os.getpid() % 500) * 20
    port = base + index * 12
    while True:
        for p in range(port, port + 10):
            with socket.socket() as s:
                try:
                    s.bind(("127.0.0.1", p))
                except OSError:
                    break
        else:
            return port
        port += 12


def make_keys(directory):
    """The user keys of the suite, made once; test-exec.sh takes a key that is newer than ssh-keygen as cached."""
    directory.mkdir()
    env = dict(os.environ, SSH_SK_PROVIDER=str(REGRESS / "misc/sk-dummy/sk-dummy.so"))
    for kind in KEY_TYPES:
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", kind, "-f", str(directory / kind)], env=env,
                       check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Run:
    def __init__(self, args, work):
        self.args = args
        self.work = work
        self.keys = work / "keys"
        self.lock = threading.Lock()

    def ours(self, program):
        """A program of the release build, beside the gateway's."""
        return pathlib.Path(self.args.binary).parent / program

    def environment(self, row, obj, state, port):
        env = dict(os.environ)
        env.pop("SSH_AUTH_SOCK", None)
        env.update(
            TEST_SHELL="sh", BUILDDIR=str(REGRESS), TEST_SSH_PORT=str(port), TEST_SSH_UNSAFE_PERMISSIONS="1",
            TEST_SSH_IPV6="yes", TEST_SSH_ECC="yes", TEST_SSH_SFTPSERVER="/usr/lib/openssh/sftp-server",
            TEST_SSH_PLINK="plink", TEST_SSH_PUTTYGEN="puttygen", TEST_SSH_CONCH="conch3",
            SUDO="", PATH=f"{HERE}/bin/tools:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            SG_STATE=str(state), SG_OBJ=str(obj), SG_LOGIN=self.args.login,
        )
        if os.geteuid() == 0:
            env["LOGNAME"] = env["USER"] = "root"
        if self.args.server == "sandgate" and row.copies_files():
            env["TEST_SSH_SCP"] = str(HERE / "bin/files/scp")
        if self.args.server == "sandgate" and row.way == "gateway":
            env.update(
                TEST_SSH_SSH=str(HERE / "bin/ssh"), TEST_SSH_SSHD=str(HERE / "bin/sshd"),
                TEST_SSH_SFTPSERVER=str(HERE / "bin/files/sftp-server"), SG_BINARY=self.args.binary,
                SG_OFFER=str(self.work / "offer"), SG_HOSTKEY_TYPES=" ".join(self.host_key_types()),
            )
            if row.name in ONE_NETWORK:
                env["SG_NETWORK"] = "host"
        else:
            env.update(TEST_SSH_SSH="/usr/bin/ssh", TEST_SSH_SSHD="/usr/sbin/sshd")
        if self.args.server == "sandgate" and row.way == "program":
            # The variable also has to reach what the real sshd starts.
            env.update(
                TEST_SSH_SFTPSERVER=str(self.ours(PROGRAMS[0])), SG_SCP=str(self.ours(PROGRAMS[1])),
                TEST_SSH_SSH_CONFOPTS="SendEnv SG_SCP", TEST_SSH_SSHD_CONFOPTS="AcceptEnv SG_SCP",
            )
        return env

    def host_key_types(self):
        """The key types (not signature algorithms) of the gateway's host keys."""
        offer = self.work / "offer"
        if not offer.exists():
            return []
        names = dict(l.split(" ", 1) for l in offer.read_text().splitlines())["hostkey"].split(",")
        # In the order of the offer: hostkey-rotate takes the first for the one that a client knows already.
        return list(dict.fromkeys("ssh-rsa" if n.startswith("rsa-sha2-") else n for n in names))

    def script_for(self, row, obj):
        """The script as shipped, or a copy with the edit kept in `edits/`."""
        name = row.name
        edit = HERE / "edits" / (f"{name}.sed" if row.way == "gateway" else f"{name}.{row.way}.sed")
        if self.args.server != "sandgate" or not edit.exists():
            return REGRESS / f"{name}.sh"
        src = obj / "src"
        src.mkdir()
        for entry in REGRESS.iterdir():
            if entry.name != f"{name}.sh":
                (src / entry.name).symlink_to(entry)
        edited = src / f"{name}.sh"
        edited.write_bytes(subprocess.run(["sed", "-E", "-f", str(edit), str(REGRESS / f"{name}.sh")],
                                          check=True, stdout=subprocess.PIPE).stdout)
        return edited

    def one(self, row, index):
        # Neutral names: hostkey-rotate drops every configuration line that contains "hostkey", paths included.
        obj = self.work / f"o{index:02}"
        state = self.work / f"s{index:02}"
        obj.mkdir()
        state.mkdir()
        for name in OBJ_FILES:
            if (REGRESS / name).exists():
                shutil.copy2(REGRESS / name, obj / name)
        for key in self.keys.iterdir():
            shutil.copy(key, obj / key.name)
            if not key.name.endswith(".pub"):
                (obj / key.name).chmod(0o600)
        # The guest's root is an unprivileged user of the host; scripts write into this directory from inside.
        obj.chmod(0o777)
        command = ["sh", str(REGRESS / "test-exec.sh"), str(obj), str(self.script_for(row, obj))]
        through_gateway = self.args.server == "sandgate" and row.way == "gateway"
        if through_gateway and row.copies_files() and os.geteuid() == 0 and not in_user_namespace():
            command.insert(0, str(HERE / "bin/own-ids"))
        env = self.environment(row, obj, state, free_port_block(index))
        log = self.work / row.log_name()
        began = time.monotonic()
        with open(log, "wb") as out:
            process = subprocess.Popen(command, env=env, cwd=obj, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, start_new_session=True, umask=0)
            try:
                code = process.wait(timeout=self.args.limit)
            except subprocess.TimeoutExpired:
                code = None
        row.seconds = time.monotonic() - began
        # What the script left behind (a sleeping telnet, a mux master) is in the session that we made for it.
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        if code is None:
            time.sleep(0.3)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        if through_gateway:
            subprocess.run([str(HERE / "bin/sshd"), "--cleanup"], env=env, check=False)
        self.judge(row, code, log, state, through_gateway)
        with self.lock:
            shown = row.result if row.ok() else f"{row.result.upper()} (expected {row.expect})"
            way = "" if row.way == "gateway" else f"[{row.way}] "
            print(f"{row.name:24} {shown:10} {row.seconds:6.1f} s  {way}{row.detail}", flush=True)
        if row.result == "pass" and not self.args.keep:
            shutil.rmtree(obj, ignore_errors=True)
            shutil.rmtree(state, ignore_errors=True)

    def judge(self, row, code, log, state, through_gateway):
        # The scratch directory has another name in every run; the table must not change for that.
        text = re.sub(rf"{re.escape(str(self.work))}/o\d+", "$OBJ", log.read_text(errors="replace"))
        skipped = re.search(r"^(SKIPPED: .*|.*(?:not enabled|skipped).*)$", text, re.M)
        ignored = state / "untranslated"
        if code is None:
            row.result, row.detail = "fail", f"not finished after {self.args.limit} s"
        elif code != 0:
            lines = [l for l in text.splitlines() if l.strip() and not l.startswith(("run test", "test "))]
            row.result, row.detail = "fail", " / ".join(lines[:3])[:200]
        elif skipped:
            row.result, row.detail = "skipped", skipped.group(1)
        else:
            row.result = "pass"
        if row.result == "pass" and through_gateway and not any(state.glob("*/pid")):
            row.result, row.detail = "fail", "it never reached a gateway"
        if ignored.exists() and row.result != "pass":
            row.detail += " [no equivalent: " + ", ".join(sorted(set(ignored.read_text().split()))) + "]"


def client_version():
    return subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, check=False).stderr.decode().strip()


def package_version():
    out = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "openssh-tests"], stdout=subprocess.PIPE, check=False)
    return out.stdout.decode().strip() or "unknown"


def offer_lines(work):
    """What the gateway offers, so that a reader sees which algorithms the loops of the scripts went over."""
    offer = work / "offer"
    if not offer.exists():
        return []
    lines = []
    for line in offer.read_text().splitlines():
        name, values = line.split(" ", 1)
        lines.append(f"* {name}: " + ", ".join(f"`{v}`" for v in values.split(",")))
    return lines


def table(rows):
    lines = ["| script | result | note |", "| --- | --- | --- |"]
    for row in sorted(rows, key=lambda r: r.name):
        note = row.note
        if row.result not in ("pass", *NOT_RUN) and row.detail:
            note = f"{note} ({row.detail})" if note else row.detail
        lines.append(f"| {row.name} | {row.result} | {note.replace('|', chr(92) + '|')} |")
    return lines


def write_table(rows, path, work):
    passed = sum(r.result == "pass" for r in rows)
    failed = sum(r.result not in ("pass", *NOT_RUN) for r in rows)
    na, absent = (sum(r.result == it for r in rows) for it in NOT_RUN)
    out = [
        "# Conformance: OpenSSH's own regress scripts", "",
        "Made by `tests/conformance/run.sh`; do not edit. The scripts are those of Debian's `openssh-tests`, the client is the",
        "stock one, and the server is the gateway with a sandbox of `--image host`. `tests/conformance/README.md` says how the",
        "scripts, which expect to start sshd themselves, are pointed at it.", "",
        f"* client: {client_version()}", f"* scripts: openssh-tests {package_version()}",
        f"* result: {passed} pass, {failed} fail, {na} cannot apply, {absent} not in the package (*absent* below)", "",
        "Loops over algorithms (`ssh -Q`) go over what both sides have. The gateway, with `[ssh] compat = true`, offered:", "",
        *offer_lines(work), "",
        "## Through the gateway", "",
        "The scripts that start an `sftp-server` beside the client (`sftp -D`, `scp -D`) get a program that logs in to the gateway",
        "and asks for its `sftp` subsystem; those that start the far end of `scp -O` themselves get one that runs it there.", "",
        *table([r for r in rows if r.way == "gateway"]), "",
        "## The stand-alone programs", "",
        "The same scripts without a gateway: `sandgate-sftp-server` and `sandgate-scp` in place of OpenSSH's programs, with",
        "OpenSSH's sshd where a script needs one.", "",
        *table([r for r in rows if r.way == "program"]),
    ]
    path.write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", help="only these scripts (the table is then not written)")
    parser.add_argument("--way", choices=["gateway", "program"], help="only the gateway, or only the stand-alone programs")
    parser.add_argument("--server", choices=["sandgate", "sshd"], default="sandgate")
    parser.add_argument("--binary", default=str(ROOT / "target/release/sandgate"))
    parser.add_argument("--jobs", type=int, default=4, help="scripts at once; most of them sleep")
    parser.add_argument("--limit", type=int, default=DEFAULT_LIMIT, help="seconds for one script")
    parser.add_argument("--keep", action="store_true", help="keep the scratch directory")
    parser.add_argument("--all", action="store_true", help="also run scripts listed as n/a")
    args = parser.parse_args()
    args.login = "root" if os.geteuid() == 0 else os.environ.get("USER", "user")

    if not REGRESS.is_dir():
        print("conformance: skipped: the package openssh-tests is not installed", file=sys.stderr)
        return 77
    rows = read_rows()
    missing, arrived = unlisted(rows), no_longer_absent(rows)
    if args.server == "sshd":
        args.way = "gateway"  # there is one way to run the real sshd
    chosen = [r for r in rows if (not args.scripts or r.name in args.scripts) and args.way in (None, r.way)]
    runnable = [r for r in chosen if r.expect not in NOT_RUN or (r.expect == "n/a" and (args.all or args.scripts))]
    alone = any(r.way == "program" for r in runnable)
    for program in (pathlib.Path(args.binary).parent / name for name in PROGRAMS if alone):
        if not program.exists():
            print(f"conformance: {program} is missing; make build makes it", file=sys.stderr)
            return 1
    if (args.server == "sshd" or alone) and os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)

    work = pathlib.Path(tempfile.mkdtemp(prefix="sgc-", dir="/tmp"))
    work.chmod(0o755)
    failed_early = None
    try:
        run = Run(args, work)
        make_keys(run.keys)
        if args.server == "sandgate":
            probe = subprocess.run([str(HERE / "bin/sshd"), "--probe-offer", str(work / "offer")], check=False,
                                   env=run.environment(Row("probe", "pass", ""), work, work / "probe.d", free_port_block(0)))
            if probe.returncode != 0:
                failed_early = "the gateway could not be started for the first probe"
        if failed_early is None:
            # Long ones first, so that the last worker does not start rekey when the others are done.
            long_first = {"rekey": 0, "multiplex": 1, "exit-status": 2, "sftp": 3, "integrity": 4, "connection-timeout": 5}
            order = sorted(enumerate(runnable), key=lambda p: (long_first.get(p[1].name, 9), p[0]))
            with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
                for future in [pool.submit(run.one, row, index) for index, row in order]:
                    future.result()
            # Four scripts share two cores and some of them have a few seconds for something. One that fails has a second
            # run with the machine to itself; it then counts, and the first failure is shown beside the result.
            for index, row in order:
                if not row.ok():
                    first = f"{row.result}: {row.detail}"
                    run.one(row, len(order) + index)
                    if row.ok():
                        print(f"unsteady: conformance {row.name}: {first}", flush=True)
            if args.server == "sandgate" and not args.scripts and not args.all and not args.way:
                write_table(rows, ROOT / "docs/conformance.md", work)
    finally:
        wrong = [r for r in runnable if not r.ok()]
        if args.keep or wrong:
            print(f"conformance: scratch files kept in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)

    if failed_early:
        print(f"conformance: {failed_early}", file=sys.stderr)
        return 1
    for name in missing:
        print(f"conformance: {name}.sh is not listed in scripts.tsv", file=sys.stderr)
    for name in arrived:
        print(f"conformance: {name}.sh is listed as absent and is there", file=sys.stderr)
    for row in wrong:
        print(f"wrong: {row.name} {row.result} (expected {row.expect})")
    print(f"conformance: {sum(r.result == 'pass' for r in runnable)} pass, "
          f"{sum(r.result == 'fail' for r in runnable)} fail, {sum(r.result == 'skipped' for r in runnable)} skipped, "
          f"{sum(r.expect == 'n/a' for r in chosen)} n/a")
    return 1 if wrong or missing or arrived else 0


if __name__ == "__main__":
    sys.exit(main())
