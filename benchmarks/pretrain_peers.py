"""Peers of ``benchmarks/pretrain.py``: each trains a Llama of the same shape on the same batches, on one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Batch = Callable[[int], tuple[Tensor, Tensor]]


def trainer(model: dict[str, Any], batch: Batch, steps: int, ended: Callable[[], None], out: Path) -> dict[str, Any]:
    """The Hugging Face Trainer, AdamW in one kernel."""
    import accelerate
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    size = model["batch"]

    class Windows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return steps * size

        def __getitem__(self, i: int) -> dict[str, Tensor]:
            tokens, labels = batch(i // size)
            return {"input_ids": tokens[i % size], "shift_labels": labels[i % size], "labels": labels[i % size]}

    class Ended(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended()

    config = LlamaConfig(vocab_size=model["vocab"], hidden_size=model["hidden"], intermediate_size=model["ffn"],
                         num_hidden_layers=model["layers"], num_attention_heads=model["heads"], rms_norm_eps=1e-5,
                         max_position_embeddings=model["seq_len"], tie_word_embeddings=True,
                         use_cache=False)  # fmt: skip
    asked = TrainingArguments(output_dir=str(out), max_steps=steps, per_device_train_batch_size=size,
                              learning_rate=model["lr"], adam_beta1=model["betas"][0], adam_beta2=model["betas"][1],
                              weight_decay=model["decay"], max_grad_norm=model["clip"],
                              lr_scheduler_type="constant_with_warmup", warmup_steps=model["warmup"],
                              save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=steps, use_cpu=True,
                              seed=model["seed"], dataloader_num_workers=0, remove_unused_columns=False)  # fmt: skip
    run = Trainer(LlamaForCausalLM(config), asked, train_dataset=Windows(), callbacks=[Ended()])
    run._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(run.train_dataset)  # type: ignore[method-assign]
    loss = float(run.train().training_loss)
    return {"version": version("transformers"), "accelerate": accelerate.__version__, "train_loss": loss}


def olmo_core(model: dict[str, Any], batch: Batch, steps: int, ended: Callable[[], None], out: Path) -> dict[str, Any]:
    """OLMo-core's trainer, its fused AdamW, no compilation."""
    from olmo_core.data.data_loader import DataLoaderBase
    from olmo_core.nn.feed_forward import FeedForwardConfig
    from olmo_core.nn.transformer import TransformerConfig
    from olmo_core.optim import AdamWConfig, ConstantWithWarmup
    from olmo_core.train import Duration, TrainerConfig
    from olmo_core.train.callbacks import Callback
    from olmo_core.train.train_module import TransformerTrainModuleConfig

    tokens = model["batch"] * model["length"]

    class Batches(DataLoaderBase):
        total_batches = steps

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

        def reshuffle(self, epoch: int | None = None, **_: Any) -> None:
            self._epoch = epoch or 1

        def _iter_batches(self) -> Iterable[dict[str, Any]]:
            for step in range(steps):
                inputs, labels = batch(step)
                yield {"input_ids": inputs, "labels": labels}

        def get_mock_batch(self) -> dict[str, Any]:
            inputs, labels = batch(0)
            return {"input_ids": inputs, "labels": labels}

    class Ended(Callback):
        def post_step(self) -> None:
            ended()

    config = TransformerConfig.llama_like(
        d_model=model["hidden"], vocab_size=model["vocab"], n_layers=model["layers"], n_heads=model["heads"],
        rope_theta=10000, tie_word_embeddings=True,
        feed_forward=FeedForwardConfig(hidden_size=model["ffn"], bias=False))  # fmt: skip
    module = TransformerTrainModuleConfig(
        rank_microbatch_size=tokens, max_sequence_length=model["length"], max_grad_norm=model["clip"],
        optim=AdamWConfig(lr=model["lr"], betas=model["betas"], weight_decay=model["decay"], fused=True),
        scheduler=ConstantWithWarmup(warmup=model["warmup"]),
    ).build(config.build(init_device="cpu"), torch.device("cpu"))  # fmt: skip
    run = TrainerConfig(save_folder=str(out), save_overwrite=True, max_duration=Duration.steps(steps),
                        metrics_collect_interval=steps, no_checkpoints=True, callbacks={"ended": Ended()},
                        device="cpu")  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    run.build(module, Batches(work_dir=out, global_batch_size=tokens)).fit()
    return {"version": version("ai2-olmo-core"), "parameters": sum(p.numel() for p in module.model.parameters())}


PEERS = {"trainer": trainer, "olmo-core": olmo_core}
