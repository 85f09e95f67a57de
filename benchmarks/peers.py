"""The peers of fitting: PEFT's model in transformers' `Trainer`, and TRL's `SFTTrainer`.

Each is set up as its documentation does, and then given what makes the work the same as ours: the
same token ids in the same order, loss on answer tokens only, the same start of what is trained,
AdamW at a constant rate without weight decay, gradients clipped at norm 1. Dynamic padding; the
prompt stands on every row. Gradient checkpointing, which TRL switches on, is off: it trades time
for memory and would only flatter us.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks import initial
from benchmarks.gate import Gate
from benchmarks.jobs import Job
from benchmarks.workloads import BATCH, Workload, load_workload
from tunewise.model.resolve import resolve

IGNORED = -100


def load_plain(job: Job) -> tuple[Any, Any]:
    """Model and tokenizer as transformers loads them from the folder of the base."""
    folder = str(resolve(job.model).path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, job.dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.to(device), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def serve_trainer(job: Job, gate: Gate) -> None:
    """PEFT's model (or the plain one) in transformers' `Trainer`."""
    model, tokenizer = load_plain(job)
    workload = load_workload(job.workload, tokenizer, rows=job.rows)
    model = _peft_model(job, model, workload)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _RecordedTrainer(
            model=model,
            args=TrainingArguments(**_arguments(job, folder), bf16=job.autocast),
            train_dataset=_records(workload),
            data_collator=_Collator(_padding(tokenizer)),
        )
        _train(trainer, gate, workload.data, job.pieces)


def serve_sft_trainer(job: Job, gate: Gate) -> None:
    """TRL's `SFTTrainer`, with its own collator and loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    class RecordedSFT(_Recorded, SFTTrainer):
        """`SFTTrainer` whose losses are kept."""

    model, tokenizer = load_plain(job)
    workload = load_workload(job.workload, tokenizer, rows=job.rows)
    start = initial.low_rank(model, job.size) if job.method == "lora" else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            **_arguments(job, folder),
            bf16=job.autocast,
            gradient_checkpointing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = RecordedSFT(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(_records(workload)),
            processing_class=tokenizer,
            peft_config=_lora_config(job.size) if start else None,
        )
        _copy_low_rank(trainer.model, start)
        _train(trainer, gate, workload.data, job.pieces)


class _Recorded:
    """Mixed into a trainer: keeps the loss of every step as it was computed, not as logged."""

    losses: list[float]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.compute_loss`."""
        outcome = super().compute_loss(*args, **kwargs)
        loss = outcome[0] if isinstance(outcome, tuple) else outcome
        self.losses.append(float(loss.detach()))
        return outcome


class _RecordedTrainer(_Recorded, Trainer):
    """`Trainer` whose losses are kept."""


class _AtGate(TrainerCallback):
    """Holds the trainer between two steps until the gate opens."""

    def __init__(self, gate: Gate, losses: list[float], pieces: int) -> None:
        self.gate, self.losses, self.pieces = gate, losses, pieces
        self.left = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Wait for the first block."""
        self.left = self.gate.next().count

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Report where a block ends, and wait for the next."""
        self.left -= 1
        if self.left > 0:
            return
        # Each piece's loss is already divided by the answer tokens of the whole step.
        begins = range(0, len(self.losses), self.pieces)
        self.gate.done(losses=[sum(self.losses[at : at + self.pieces]) for at in begins])
        self.losses.clear()
        self.left = self.gate.next().count
        if self.left == 0:
            control.should_training_stop = True


class _Collator:
    """Pads a batch on the right to its longest row."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def __call__(self, records: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        longest = max(len(record["input_ids"]) for record in records)
        batch = {
            "input_ids": torch.full((len(records), longest), self.padding),
            "labels": torch.full((len(records), longest), IGNORED),
            "attention_mask": torch.zeros(len(records), longest, dtype=torch.long),
        }
        for index, record in enumerate(records):
            length = len(record["input_ids"])
            batch["input_ids"][index, :length] = torch.tensor(record["input_ids"])
            batch["labels"][index, :length] = torch.tensor(record["labels"])
            batch["attention_mask"][index, :length] = 1
        return batch


def _arguments(job: Job, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH // job.pieces,
        "gradient_accumulation_steps": job.pieces,
        # One more than will be asked for: the gate ends the training, not the count.
        "max_steps": job.steps + 1,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _records(workload: Workload) -> list[dict[str, list[int]]]:
    """Prompt, row and answer in one, the prompt on every row."""
    shared = list(workload.renderer.shared_tokens)
    records = []
    for each in workload.examples:
        asked, answer = shared + list(each.row), list(each.answer)
        records.append({"input_ids": asked + answer, "labels": [IGNORED] * len(asked) + answer})
    return records


def _padding(tokenizer: Any) -> int:
    padding = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if padding is None else padding)


def _peft_model(job: Job, model: Any, workload: Workload) -> Any:
    if job.method == "soft_prompt":
        weights = initial.virtual_tokens(model, job.size)
        config: Any = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=job.size)
    elif job.method == "prefix":
        weights = _prefix_weights(model, workload, job.size)
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=job.size)
    elif job.method == "lora":
        start = initial.low_rank(model, job.size)
        adapted = get_peft_model(model, _lora_config(job.size))
        _copy_low_rank(adapted, start)
        return adapted
    else:
        return model
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        adapted.prompt_encoder["default"].embedding.weight.copy_(weights)
    return adapted


def _prefix_weights(model: Any, workload: Workload, count: int) -> Tensor:
    """(P, layers x 2 x key/value width): the layout of PEFT's prefix encoder."""
    tokens = initial.prefix_tokens(workload.renderer.shared_tokens, count)
    with torch.no_grad():
        cache = model(
            input_ids=torch.tensor([tokens], device=model.device), use_cache=True
        ).past_key_values
    pieces = [
        tensor[0].transpose(0, 1).reshape(count, -1)
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    ]
    return torch.cat(pieces, dim=1).float()


def _lora_config(rank: int) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )


def _copy_low_rank(model: Any, start: dict[str, tuple[Tensor, Tensor]]) -> None:
    named = dict(model.named_parameters())
    with torch.no_grad():
        for layer, factors in start.items():
            for letter, tensor in zip("AB", factors, strict=True):
                named[f"base_model.model.{layer}.lora_{letter}.default.weight"].copy_(tensor)


def _train(trainer: Any, gate: Gate, data: str, pieces: int) -> None:
    trainer.losses = []
    trainer.add_callback(_AtGate(gate, trainer.losses, pieces))
    trained = [each for each in trainer.model.parameters() if each.requires_grad]
    gate.ready(
        trained=sum(each.numel() for each in trained),
        trained_dtype=str(trained[0].dtype).removeprefix("torch."),
        units=1,
        data=data,
        dtype=str(trainer.model.dtype).removeprefix("torch."),
    )
    trainer.train()
