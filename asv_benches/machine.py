"""Tell asv what this machine is called in our records: plain asv commands then ask nothing."""

from asv.machine import Machine, MachineCollection

from gemma_bench.core.machine import this_machine


def setup() -> None:
    """Put the name, with chip and memory in it, in the place of the host's; asv calls this in every command."""
    name = this_machine().id
    Machine.hardcoded_machine_name = name
    MachineCollection.save(name, {**Machine.get_defaults(), "machine": name})
