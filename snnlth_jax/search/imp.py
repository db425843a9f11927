"""Iterative magnitude pruning with late rewinding (the paper; Frankle et al. 2020).

Round 0 trains the dense network for E epochs and keeps its weights of epoch r. Round k removes the fraction p
of the remaining weights with the smallest magnitude after round k - 1, rewinds the survivors to epoch r and
trains to epoch E, with a new optimiser state and the full schedule. After k prunings a fraction (1 - p)^k is
left; with a target sparsity the last round removes just what is missing to it.

With Early-Time round 0 continues with T' timesteps after its first epochs, all later rounds run with T', and
tickets are then trained at the full T. With another
`rewinding` the survivors keep their trained weights (Renda et al. 2020).
"""

from typing import Any

import flax.linen as nn
from rich.console import Console

from snnlth_jax import configs, data, masks, pruning
from snnlth_jax.configs import targets
from snnlth_jax.run import earlier
from snnlth_jax.run.results import Result
from snnlth_jax.search import early_time, final
from snnlth_jax.search.phases import Phase
from snnlth_jax.search.plan import Plan
from snnlth_jax.search.programs import Programs
from snnlth_jax.search.progress import Carry
from snnlth_jax.search.rewinding import RewindPoint, rewind
from snnlth_jax.search.session import Session, run
from snnlth_jax.train import TrainState

PyTree = Any

__all__ = ["iterate", "search"]


def search(
    config: configs.ImpConfig,
    dataset: data.Dataset | None = None,
    model: nn.Module | None = None,
    programs: Programs | None = None,
    console: Console | None = None,
) -> Result | Plan:
    """Search tickets by IMP, train their controls, or resume such a search.

    Arguments, result and errors are those of `snnlth_jax.search.session.run`.
    """
    config = earlier.adopted(config, configs.resolve(config))
    return run(config, _search, dataset, model, programs, console)


def _search(session: Session[configs.ResolvedImp]) -> None:
    from_rewind_point = session.config.rewinding == "weights"
    early_time.choose_timesteps(session, lambda probe: _train(session, probe, from_rewind_point))
    iterate(session, from_rewind_point)
    final.train(session)


_Rounds = Session[configs.ResolvedImp] | Session[configs.ResolvedTransfer]


def iterate(session: _Rounds, from_rewind_point: bool = True) -> None:
    """Run the rounds; in each, prune, rewind, train, and save the ticket.

    Args:
      session: session whose phases have rounds.
      from_rewind_point: rewind the survivors to the weights of the rewind epoch, or keep the trained weights.
    """
    for phase in session.remaining("round"):
        _train(session, phase, from_rewind_point)
        ticket = session.save_ticket(phase, phase.round, session.carry.state.masks)
        session.finish(phase, ticket)


def _train(session: _Rounds, phase: Phase, from_rewind_point: bool) -> None:
    config = session.config

    def start(phase: Phase, last: Carry) -> Carry:
        if phase.continues:
            return last
        if phase.round == 0:
            return Carry.of(session.initial_state())
        point = last.rewind if from_rewind_point else RewindPoint.of(last.state)
        if config.biases_on_rewind == "keep" and phase.round >= 2:
            point = point.with_biases(last.state.params)
        kept = _pruned(session, phase, last.state)
        state = rewind(last.state, point, kept, session.tx, config.bn_on_rewind)
        return last._replace(state=state, rewind=point)

    for epoch, carry in session.train(phase, start):
        if phase.round == 0 and epoch <= config.rewind_epoch and from_rewind_point:
            session.carry = carry._replace(rewind=RewindPoint.of(carry.state))


def _pruned(session: _Rounds, phase: Phase, state: TrainState) -> PyTree:
    """The masks of a round, from the network that the round before trained."""
    config, left = session.config, state.masks
    if not isinstance(config, configs.ResolvedImp):
        return _removed(config, phase, pruning.magnitude(state.params), left)
    lamp = config.score == "lamp"
    scores = pruning.lamp(state.params, left) if lamp else pruning.magnitude(state.params)
    if config.budget == "synops":
        costs = session.variants.synops_by_weight(session.variant(phase), state)
        budget = (1 - config.prune_fraction) * float(pruning.cost(left, costs))
        kept = pruning.keep_within(scores, left, costs, budget)
    else:
        kept = _removed(config, phase, scores, left)
    if config.processing_elements is not None:
        before = float(pruning.utilisation(kept, config.processing_elements))
        kept = pruning.balance(scores, kept, left, config.processing_elements)
        after = float(pruning.utilisation(kept, config.processing_elements))
        elements = f"{config.processing_elements} processing elements"
        session.recorder.message(f"{phase}: utilisation of {elements} {before:.4f}, balanced {after:.4f}")
    return kept


def _removed(config: configs.ResolvedRounds, phase: Phase, scores: PyTree, left: PyTree) -> PyTree:
    """The fraction p of the weights that are left removed, or what is missing to the target sparsity."""
    last, target = phase.round == config.rounds - 1, None
    if config.sparsity is not None:
        target = pruning.keep_top(scores, left, targets.density(config.sparsity), config.scope)
        if last:
            return target
    kept = pruning.prune(scores, left, config.prune_fraction, config.scope)
    beyond = target is not None and int(masks.count(kept)[0]) < int(masks.count(target)[0])
    return target if beyond else kept
