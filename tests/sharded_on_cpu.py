"""Run a job sharded (FSDP2) over CPU processes: python -m torch.distributed.run ... THIS JOB.json

accelerate shards on accelerators only; here it is told that two gloo processes are one, so that the code
behind profiles/accelerate/fsdp.yaml can be tested without a GPU.
"""

import json
import os
import sys

import torch
import yaml

from cxrtrek_lib import paths

options = yaml.safe_load((paths.PROFILES / "accelerate" / "fsdp.yaml").read_text())["fsdp_config"]
os.environ["ACCELERATE_USE_FSDP"] = "true"
os.environ |= {name.upper(): str(value).lower() for name, value in options.items() if "policy" not in name}
os.environ["FSDP_AUTO_WRAP_POLICY"] = options["fsdp_auto_wrap_policy"]
os.environ["FSDP_STATE_DICT_TYPE"] = options["fsdp_state_dict_type"]

from accelerate import Accelerator, PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from cxrtrek_lib import finetune, train  # noqa: E402

state = PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
torch.accelerator.is_available = lambda: True
finetune.PartialState = lambda **_: state
train.Accelerator = lambda cpu, **options: Accelerator(**options)
put = train._Run.put


def watched(run, weights):
    """Say how the model is held when its first checkpoint is taken up."""
    print("sharded:", sum(isinstance(p, DTensor) for p in run.losses_of.parameters()), "parameters")
    put(run, weights)


train._Run.put = watched
finetune.run(json.loads(open(sys.argv[1]).read()))
