"""One file a training method.

Such a file holds:

- a docstring: what the method is, and the paper it follows;
- ``TRAINS``: the kinds of model that it trains, of ``"segmenter"``, ``"classifier"`` and
  ``"translator"`` (a segmenter's network, whose output is an image); or what a further target
  calls its models (``trains``);
- ``USES``: the streams of samples that it is given, ``("labelled",)`` or ``("labelled",
  "unlabelled")``; it is never given anything else;
- ``NETWORKS``, where it trains no network but its own: kind -> the network's name. Where a step
  calls not such a network itself but its ``segment`` or its ``generator``, checks listen there;
- ``Config``: a frozen dataclass with a help text for every field. What a guess owes another guess
  and no label is weighed by a setting called ``consistency``, so that it can be left out. A class
  variable ``PRESETS`` holds tables of settings by name, see ``core.config``; each is tried;
- ``build(config, network, context) -> Plan``: see ``core.context`` and ``_plan``. What it trains
  beside the predictor and wants to travel in the model file is a ``Part`` of ``Plan.keeps``;
- ``UNSOUND``, where it has such: presets that show a fault, so that their loss need not fall.

What a step sees is a ``core.case.Batch``. Losses that users choose are ``losses.weighted_sum``. A
second network is a copy (``copy.deepcopy``), among the modules of a stage. What is named here is
for files of anybody's own too.
"""

from delineate.methods._plan import Part, Plan, Stage, Update, require_rates

__all__ = ["Part", "Plan", "Stage", "Update", "require_rates"]
