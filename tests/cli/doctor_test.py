"""`peal doctor` on the hosts of a test bed: all is well with a bed as it is, and each fault that is
planted in one is found, on its host, with a remedy, and nothing else with it."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

from bed import BedTest, testbed
from peal_cli import MPI_ENVIRONMENT, PEAL

BUILD = pathlib.Path(PEAL).parent
OTHER = os.environ.get("PEAL_OTHER", str(BUILD / "other_peal"))
OTHER_ONEDNN = os.environ.get("PEAL_OTHER_ONEDNN", str(BUILD / "tests/libother_onednn.so"))
OTHER_CLOCK = os.environ.get("PEAL_OTHER_CLOCK", str(BUILD / "tests/libother_clock.so"))
HOSTS = ["h1", "h2", "h3", "h4"]


class Doctor(BedTest):
    # At this rate the links and not the processors decide what is measured.
    UP = (len(HOSTS), "--rate", "300mbit")

    def setUp(self):
        super().setUp()
        self.data = self.shared / "data"
        self.data.mkdir(exist_ok=True)

    def on(self, host, *words):
        done = testbed("exec", host, *words)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def doctor(self, *words, code, hosts=HOSTS):
        done = testbed("exec", "h1", PEAL, "doctor", "--hosts", ",".join(hosts), "--directory",
                       self.data, "--deadline", 6, *words)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def found(self, *words, code=3, **options):
        """{(host, check): what it says} of faults, or of warnings where there is no fault."""
        report = json.loads(self.doctor("--json", *words, code=code, **options))
        level = "fault" if code else "warning"
        found = {}
        for finding in report["findings"]:
            self.assertNotEqual(finding["level"], "warning" if code else "fault", finding)
            if finding["level"] == level:
                self.assertTrue(finding["remedy"])
                found[finding["host"], finding["check"]] = finding["text"]
        self.assertEqual(report[level + "s"], len(found), report)
        self.assertEqual(list(self.data.iterdir()), [])  # tokens are removed
        return found

    def expect(self, found, expected):
        self.assertEqual(found.keys(), expected.keys(), found)
        for place, pattern in expected.items():
            self.assertRegex(found[place], pattern)

    def mount(self, host, *words):
        """A mount that only this host sees, until the test is over."""
        self.on(host, "mount", *words)
        self.addCleanup(self.on, host, "umount", "--lazy", words[-1])

    def instead_of_peal(self, host, command):
        """On this host a script takes the place of peal; in it $PEAL is the real one."""
        script = self.folder_on_hosts() / f"peal-{host}"
        script.write_text(f'#!/bin/sh\nPEAL=/tmp/real\n{command}\n')
        script.chmod(0o755)
        self.on(host, "touch", "/tmp/real")
        self.mount(host, "--bind", PEAL, "/tmp/real")
        self.mount(host, "--bind", script, PEAL)

    def folder_on_hosts(self):
        return pathlib.Path(tempfile.mkdtemp(dir=self.shared))

    def test_a_sound_bed(self):
        self.assertEqual(self.found(code=0), {})
        report = json.loads(self.doctor("--json", "--interface", "eth0", code=0))
        self.assertEqual(report["verdict"], "verdict: all right")
        pairs = {(pair["from"], pair["to"]): pair for pair in report["pairs"]}
        self.assertEqual(len(pairs), 12)
        for pair in pairs.values():  # 300 Mbit/s are 37.5 MB/s
            self.assertGreater(pair["bytes_per_second"], 15e6)
            self.assertLess(pair["bytes_per_second"], 45e6)

    def test_other_programs(self):
        self.instead_of_peal("h2", f'exec {OTHER} "$@"')
        self.instead_of_peal("h3", f'LD_PRELOAD={OTHER_ONEDNN} exec $PEAL "$@"')
        # A peal from before there was a doctor answers as this one does to a word it does not know.
        self.instead_of_peal("h4", 'case $1 in doctor) exec $PEAL surgeon ;; *) exec $PEAL "$@" ;; esac')
        self.expect(self.found(), {
            ("h2", "program"): r"peal is 0\.0\.9 .* but h1 has 0\.1\.",
            ("h3", "libraries"): r"oneDNN is 9\.8\.7 \(another\) but h1 has \d",
            ("h4", "program"): r"another version, which knows no such probe: 0\.1\."})

    def test_programs_that_do_not_run(self):
        self.mount("h2", "--bind", "/dev/null", PEAL)
        self.instead_of_peal("h3", "echo broken: no such library >&2; exit 127")
        self.instead_of_peal("h4", 'case $2 in --probe) sleep 60 ;; esac')
        self.expect(self.found(), {
            ("h2", "program"): "has no program " + PEAL,
            ("h3", "program"): r"cannot run \(exit code 127\): broken: no such library",
            ("h4", "program"): "does not answer within 6 s"})

    def test_memory_and_folders(self):
        self.mount("h2", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "/dev/shm")
        self.mount("h3", "-t", "tmpfs", "-o", "size=2g", "tmpfs", self.data)
        self.expect(self.found(), {
            ("h2", "/dev/shm"): "8.0 MiB of 8.0 MiB are free; wanted are 32.0 MiB",
            ("h1", str(self.data)): r"does not see what h3 wrote there",
            ("h2", str(self.data)): r"does not see what h3 wrote there",
            ("h3", str(self.data)): r"does not see what h1, h2, h4 wrote there \(its file system: tmpfs\)",
            ("h4", str(self.data)): r"does not see what h3 wrote there"})

    def test_a_full_disk_and_full_shm_in_words(self):
        self.mount("h2", "-t", "tmpfs", "-o", "size=70m", "tmpfs", "/dev/shm")
        self.on("h2", "fallocate", "-l", "60M", "/dev/shm/left")
        disk = self.folder_on_hosts() / "disk"
        disk.mkdir()
        self.mount("h3", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk)
        self.on("h3", "fallocate", "-l", "4M", disk / "full")
        said = self.doctor("--directory", disk, code=3)
        self.assertRegex(said, r"\ncheck +h1 +h2 +h3 +h4\n|^check +h1 +h2 +h3 +h4\n")
        self.assertRegex(said, r"fault: h2: /dev/shm: 10.0 MiB of 70.0 MiB are free; wanted are 32.0 MiB\n"
                         r"  remedy: remove what crashed programs left there: ls -l /dev/shm")
        self.assertRegex(said, rf"fault: h3: {disk}: 0 B are free; wanted are 1.0 GiB\n  remedy: make room")
        self.assertRegex(said, rf"fault: h3: {disk}: cannot be written: No space left on device\n")
        self.assertRegex(said, r"\nverdict: \d faults\n$")

    def test_a_slow_link(self):
        self.on("h3", "tc", "qdisc", "change", "dev", "eth0", "root", "tbf", "rate", "40mbit", "burst",
                "64kb", "latency", "50ms")
        self.addCleanup(testbed, "rate", "300mbit")
        self.expect(self.found(), {
            ("h3", "network"): r"what it sends is slow with every other host: at worst 4\.\d+ MiB/s"})

    def test_other_hardware_and_clock(self):
        cpuinfo = self.folder_on_hosts() / "cpuinfo"
        cpuinfo.write_text("\n".join("model name\t: Another CPU 9000" if line.startswith("model name")
                                     else line for line in
                                     pathlib.Path("/proc/cpuinfo").read_text().splitlines()) + "\n")
        self.mount("h2", "--bind", cpuinfo, "/proc/cpuinfo")
        self.instead_of_peal("h3", f'DNNL_MAX_CPU_ISA=SSE41 exec $PEAL "$@"')
        smi = self.folder_on_hosts()
        (smi / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA Test, 550.54'\n")
        (smi / "nvidia-smi").chmod(0o755)
        self.instead_of_peal("h4", f'PATH={smi}:$PATH exec $PEAL "$@"')
        self.expect(self.found(), {
            ("h2", "CPU"): "its CPU is Another CPU 9000, .* but h1 has ",
            ("h3", "CPU"): r", sse41 but h1 has .*, \w",
            ("h4", "GPUs"): "what it has is 1 x NVIDIA Test, driver 550.54 but h1 has none"})

    def test_a_clock_ahead(self):
        self.instead_of_peal("h3", f'LD_PRELOAD={OTHER_CLOCK} exec $PEAL "$@"')
        self.expect(self.found(code=0), {("h3", "clock"): "its clock is 30 s ahead of this host's"})
        self.assertEqual(self.found("--max-skew", 31, code=0), {})

    def test_interfaces(self):
        for host, address in (("h1", "10.88.0.1/24"), ("h2", "10.88.0.2/24"), ("h3", "10.99.0.3/24")):
            self.on(host, "ip", "link", "add", "link", "eth0", "name", "fast0", "type", "macvlan")
            self.addCleanup(self.on, host, "ip", "link", "del", "fast0")
            self.on(host, "ip", "address", "add", address, "dev", "fast0")
            self.on(host, "ip", "link", "set", "fast0", "up")
        self.expect(self.found("--interface", "fast0"), {
            ("h3", "interface"): r"its fast0 is in the network 10\.99\.0\.0/24 but others are in 10\.88\.0\.0/24",
            ("h4", "interface"): r"has no fast0; it has eth0 10\.77\.0\.4"})
        self.expect(self.found("--interface", "10.88.0.0/24"), {
            ("h3", "interface"): r"has no 10\.88\.0\.0/24; it has eth0 10\.77\.0\.3, fast0 10\.99\.0\.3",
            ("h4", "interface"): r"has no 10\.88\.0\.0/24"})

    def test_limits_and_cores(self):
        self.instead_of_peal("h2", 'ulimit -n 200; exec $PEAL "$@"')
        self.expect(self.found(), {("h2", "limits"): "may open 200 files; MPI needs more"})
        cores = os.cpu_count()
        self.expect(self.found(code=0, hosts=["h1", f"h3:{cores + 1}"]),
                    {("h3", "cores"): f"{cores + 1} ranks are asked of {cores} cores"})

    def test_ssh(self):
        state = self.shared / "testbed"
        self.mount("h2", "--bind", "/dev/null", state / "authorized_keys")
        known = self.folder_on_hosts() / "known_hosts"
        known.write_text("".join(line for line in (state / "known_hosts").read_text().splitlines(True)
                                 if not line.startswith("h3")))
        self.mount("h1", "--bind", known, state / "known_hosts")
        self.assertEqual(testbed("freeze", "h4").returncode, 0)
        self.addCleanup(testbed, "thaw", "h4")
        self.expect(self.found(hosts=[*HOSTS, "h9"]), {
            ("h2", "reached"): "takes no key of this user, or has no such user .*Permission denied",
            ("h3", "reached"): "host key is not known here",
            ("h4", "reached"): "takes the connection but its sshd does not answer",
            ("h9", "reached"): "no host that is known here"})

    def test_this_host_alone(self):
        done = subprocess.run([PEAL, "doctor", "--json", "--min-shm", "1MiB"], capture_output=True,
                              text=True, timeout=60, env=MPI_ENVIRONMENT)
        report = json.loads(done.stdout)
        self.assertEqual((done.returncode, report["faults"]), (0, 0), done.stdout + done.stderr)
        self.assertEqual(len(report["hosts"]), 1)
        self.assertIn(("MPI", "fine"), [(f["check"], f["level"]) for f in report["findings"]])

    def test_wrong_use(self):
        hostfile = self.folder / "hosts"
        hostfile.write_text("a slots=0\n")
        for words, expected in ((["--hosts", "a,a"], "named twice"),
                                (["--hostfile", hostfile], "'0' slots"),
                                (["--hosts", "a", "--hostfile", hostfile], "excludes"),
                                (["--interface", "10.0/8"], "is no network"),
                                (["--deadline", "0"], "--deadline"),
                                (["--min-shm", "much"], "--min-shm")):
            done = subprocess.run([PEAL, "doctor", *map(str, words)], capture_output=True, text=True,
                                  timeout=60)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            self.assertIn(expected, done.stderr)

    def test_zz_hosts_that_are_down(self):
        """The last: one that was killed does not come back."""
        self.assertEqual(testbed("kill", "h2").returncode, 0)
        self.assertEqual(testbed("link", "h3", "down").returncode, 0)
        self.expect(self.found(), {("h2", "reached"): "cannot be reached|does not let this host in",
                                   ("h3", "reached"): "cannot be reached|does not let this host in"})


if __name__ == "__main__":
    unittest.main()
