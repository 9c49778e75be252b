"""The table of methods. Adding a method is its module and one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "DYNAMICS_METHODS",
    "LEARNT_METHODS",
    "METHODS",
    "PREFERENCE_METHODS",
    "ROWS",
    "Row",
]

# What methods see.
MODEL, VALUES, EPISODES, NETWORKS = SEES = (
    "the model",
    "values of F",
    "episodes of the follower",
    "episodes of a follower who learns by networks",
)

YANG = "Yang et al., AISTATS 2025"
SHEN = "Shen et al., ICML 2024"
SINGLE_LOOP = "openreview NRaWmVVltg"
THOMA = "Thoma et al., NeurIPS 2024"
KUDO = "Kudo et al., ICAPS 2026"
OURS = "this package"


@dataclass(frozen=True)
class Row:
    """A method of this package.

    Attributes:
        name: Its name.
        summary: How it finds the hyper-gradient, in at most 31 characters.
        source: The paper.
        sees: What it sees, one of `SEES`.
        model: "module:Class" for games with a model; None where there is none.
        learnt: The same for games whose follower learns from interaction. It needs PyTorch.
        preferences: The same for games whose reward is learnt from preferences. It needs PyTorch.
    """

    name: str
    summary: str
    source: str
    sees: str
    model: str | None = None
    learnt: str | None = None
    preferences: str | None = None


ROWS = (
    Row("exact", "implicit differentiation", OURS, MODEL, "bilevel_gym.methods.exact:Exact"),
    Row(
        "direct",
        "control: no response part",
        OURS,
        MODEL,
        "bilevel_gym.methods.direct:Direct",
        preferences="bilevel_gym.learnt.preference_methods:PreferenceDirect",
    ),
    Row(
        "m-sobirl",
        "values and adjoint step by step",
        YANG,
        MODEL,
        "bilevel_gym.methods.m_sobirl:MSoBiRL",
    ),
    Row(
        "amd",
        "forward sensitivities",
        "Chen et al., ICML 2022",
        MODEL,
        "bilevel_gym.methods.amd:AMD",
    ),
    Row(
        "pbrl-value", "penalty on the soft value", SHEN, MODEL, "bilevel_gym.methods.pbrl:PBRLValue"
    ),
    Row(
        "pbrl-bellman",
        "penalty in every state",
        SHEN,
        MODEL,
        "bilevel_gym.methods.pbrl:PBRLBellman",
    ),
    Row(
        "pbrl-sl-value",
        "pbrl-value in a single loop",
        SINGLE_LOOP,
        MODEL,
        "bilevel_gym.methods.pbrl_sl:PBRLSLValue",
    ),
    Row(
        "pbrl-sl-bellman",
        "pbrl-bellman in a single loop",
        SINGLE_LOOP,
        MODEL,
        "bilevel_gym.methods.pbrl_sl:PBRLSLBellman",
    ),
    Row(
        "slac",
        "actor-critic, lower temperature",
        "Zeng et al., AISTATS 2026",
        MODEL,
        "bilevel_gym.methods.slac:SLAC",
    ),
    Row(
        "annealed",
        "any other, lower temperature",
        OURS,
        MODEL,
        "bilevel_gym.methods.annealed:Annealed",
    ),
    Row(
        "zero-order",
        "differences at random points",
        "Flaxman et al., SODA 2005",
        VALUES,
        "bilevel_gym.methods.zero_order:ZeroOrder",
        "bilevel_gym.learnt.probes:LearntZeroOrder",
    ),
    Row(
        "plug-in",
        "exact in the game that was seen",
        OURS,
        EPISODES,
        "bilevel_gym.methods.plug_in:PlugIn",
    ),
    Row(
        "trace",
        "the leader's advantage, traced",
        OURS,
        EPISODES,
        "bilevel_gym.methods.trace:Trace",
        "bilevel_gym.learnt.traces:LearntTrace",
        "bilevel_gym.learnt.preference_methods:PreferenceTrace",
    ),
    Row(
        "sobirl",
        "returns times advantages of dr",
        YANG,
        EPISODES,
        "bilevel_gym.methods.sobirl:SoBiRL",
        "bilevel_gym.learnt.estimators:LearntSoBiRL",
        "bilevel_gym.learnt.preference_methods:PreferenceSoBiRL",
    ),
    Row(
        "stoc-sobirl",
        "sobirl, batches that grow",
        YANG,
        EPISODES,
        "bilevel_gym.methods.stoc_sobirl:StocSoBiRL",
    ),
    Row(
        "hpgd",
        "products of averaged advantages",
        THOMA,
        EPISODES,
        "bilevel_gym.methods.hpgd:HPGD",
        "bilevel_gym.learnt.traces:LearntHPGD",
    ),
    Row(
        "bc-hg",
        "Boltzmann covariances",
        KUDO,
        EPISODES,
        "bilevel_gym.methods.bc_hg:BCHG",
        "bilevel_gym.learnt.traces:LearntBCHG",
    ),
    Row(
        "aho",
        "rollouts from pairs that matter",
        "arXiv 2607.28849, 2026",
        EPISODES,
        "bilevel_gym.methods.aho:AHO",
    ),
    Row(
        "first-order-penalty",
        "two learners and a penalty",
        "Gaur et al., NeurIPS 2025",
        EPISODES,
        "bilevel_gym.methods.first_order_penalty:FirstOrderPenalty",
    ),
    Row("deep-trace", "trace", OURS, NETWORKS, "bilevel_gym.learnt.tables:DeepTrace"),
    Row("deep-bc-hg", "bc-hg", KUDO, NETWORKS, "bilevel_gym.learnt.tables:DeepBCHG"),
    Row("deep-hpgd", "hpgd", THOMA, NETWORKS, "bilevel_gym.learnt.tables:DeepHPGD"),
    Row("deep-sobirl", "sobirl", YANG, NETWORKS, "bilevel_gym.learnt.tables:DeepSoBiRL"),
    Row("deep-score", "score", OURS, NETWORKS, "bilevel_gym.learnt.tables:DeepScore"),
    Row(
        "score",
        "successor features of dr/dx",
        OURS,
        NETWORKS,
        learnt="bilevel_gym.learnt.scores:LearntScore",
    ),
)

# Where a game finds each method by name: games with a model, those whose follower learns from
# interaction, which have no table, and those whose reward is learnt from preferences.
METHODS: Mapping[str, str] = {row.name: row.model for row in ROWS if row.model}
LEARNT_METHODS: Mapping[str, str] = {row.name: row.learnt for row in ROWS if row.learnt}
PREFERENCE_METHODS: Mapping[str, str] = {
    row.name: row.preferences for row in ROWS if row.preferences
}

# Of those whose follower learns, the ones that do not take the dynamics as given.
DYNAMICS_METHODS: Mapping[str, str] = {
    name: LEARNT_METHODS[name] for name in ("zero-order", "score")
}
