"""Everlearn: AI that keeps learning and says why.

Learn a stream with a bounded memory, explain each decision by pixels and by remembered cases.

Examples
--------
>>> import everlearn as el
>>> stream = el.class_incremental(el.open_source("builtin:digits"), tasks=5)
>>> learner = el.ER(el.build_model("slim_resnet18", channels=1, size=8), memory=50)
>>> report = learner.observe(next(stream.batches(10)))
>>> report.step, learner.samples_seen
(1, 10)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # as __init__.pyi names it
