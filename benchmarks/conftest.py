"""Every result of pytest-benchmark says what it was measured on."""

from benchmarks.machine import machine


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(machine())
