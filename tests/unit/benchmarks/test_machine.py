"""The key of a machine is made of what survives a restart."""

from jobs.benchmarks import machine


def test_a_key_is_of_all_facts_and_of_nothing_else():
    known = machine.facts()
    assert machine.key(known) == machine.key(dict(reversed(known.items())))
    for name in known:
        assert machine.key(known | {name: "other"}) != machine.key(known)
    assert machine.key(machine.facts()) == machine.key(known)
    assert "openblas" in known["blas"].lower()


def test_what_changes_from_start_to_start_is_not_in_it(tmp_path):
    cpuinfo, meminfo = tmp_path / "cpuinfo", tmp_path / "meminfo"
    told = []
    for clock, memory in (("2100.1", 16_301_000), ("3400.9", 16_299_512)):
        cpuinfo.write_text(f"processor : 0\nmodel name : EPYC 9\ncpu MHz : {clock}\n")
        meminfo.write_text(f"MemTotal:       {memory} kB\nMemFree: {memory // 3} kB\n")
        told.append((machine.cpu_model(cpuinfo), machine.memory_gib(meminfo)))
    assert told == [("EPYC 9", 16)] * 2


def test_cores_are_those_that_a_container_has(tmp_path):
    limit = tmp_path / "cpu.max"
    free = machine.cores(tmp_path / "none")
    limit.write_text("max 100000\n")
    assert machine.cores(limit) == free
    limit.write_text("50000 100000\n")
    assert machine.cores(limit) == 0.5
