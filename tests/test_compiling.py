"""Options of the compiler: known ones are passed on, others left out."""

import subprocess
import sys

from lfjax.compiling import OPTIONS, TPU, compiler_options, known
from lfjax.sharding import make_mesh

# Asks the TPU's compiler, in a process of its own: libtpu stays loaded.
ASK = """
import sys
from lfjax.plan import on_cpu
on_cpu()
from lfjax.compiling import OPTIONS, compiler_options
from lfjax.planning.chips import find_topology
from lfjax.sharding import make_mesh
for name in sys.argv[1:]:
    devices = find_topology(name)[1]
    found = compiler_options(make_mesh({"fsdp": -1}, devices))
    assert found == OPTIONS[devices[0].device_kind], found
    print(name, len(found))
"""


def test_a_cpu_has_none():
    assert compiler_options(make_mesh({"data": -1})) is None


def test_an_unknown_option_is_left_out(capsys):
    options = {"xla_no_such": True, "xla_cpu_enable_fast_math": False, "xla_nor_this": 3}
    assert known(options, make_mesh({"data": -1})) == {"xla_cpu_enable_fast_math": False}
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[-3] for line in told] == ["xla_no_such;", "xla_nor_this;"]
    assert len(options) == 3


def test_every_tpu_overlaps_collectives():
    tpus = [options for kind, options in OPTIONS.items() if kind.startswith("TPU")]
    assert len(tpus) == 5 and all(options.items() >= TPU.items() for options in tpus)


def test_the_tpu_compiler_knows_all(tpu_compiler):
    topologies = ["v5e:4x4", "v5p:2x2x2", "v6e:4x4"]
    run = subprocess.run([sys.executable, "-c", ASK, *topologies], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == topologies
