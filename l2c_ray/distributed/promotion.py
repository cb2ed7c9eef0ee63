"""The promotion job: measure versions anew on the cluster, and move their aliases if they pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2c_ray.caching.pipeline import Pipeline
from l2c_ray.config.learn import ModelSection, SamplerSection
from l2c_ray.config.promotion import GateSection, PromotionConfig
from l2c_ray.config.sampling import SamplingConfig
from l2c_ray.distributed import cluster
from l2c_ray.distributed.sampling import ClusterSampler
from l2c_ray.errors import ConfigError, GateError, IntegrityError, RegistryError, ScheduleError
from l2c_ray.evaluation import classifier
from l2c_ray.evaluation.bootstrap import Resampling
from l2c_ray.evaluation.candidates import gate_candidates
from l2c_ray.evaluation.comparison import Comparison
from l2c_ray.evaluation.cost import fits
from l2c_ray.evaluation.frontier import OnImages
from l2c_ray.evaluation.gate import Check, Limits, gate_checks, identity_checks
from l2c_ray.evaluation.remeasurement import Remeasured, fresh_draws, remeasure
from l2c_ray.models.base import CacheableTransformer
from l2c_ray.registry import tracking
from l2c_ray.registry.aliases import history, move_alias
from l2c_ray.registry.audit import AliasMove, withdrawn
from l2c_ray.registry.details import record_verdict
from l2c_ray.registry.tiers import assign_tiers
from l2c_ray.registry.versions import RegisteredVersion, get_version, holder_of, load_schedule, versions_of
from l2c_ray.schedule import Schedule

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Proposal:
    """A move of an alias that is to be examined."""

    alias: str
    version: RegisteredVersion
    incumbent: int | None
    """Number of the version that has the alias now; None if none has."""


@dataclass(frozen=True)
class Verdict:
    """The gate's checks of a proposal."""

    proposal: Proposal
    checks: list[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failure(self) -> str:
        """The version, the alias that it failed for, and the checks that failed, in words."""
        version, missed = self.proposal.version, [check for check in self.checks if not check.passed]
        findings = ", ".join(f"{check.name} {check.finding}" for check in missed)
        return f"{version.name} version {version.version} for {self.proposal.alias}: {findings}"


def promote(
    config: PromotionConfig,
    on_verdicts: Callable[[list[Verdict]], None],
    on_move: Callable[[AliasMove], None],
    on_images: OnImages,
) -> None:
    """Runs the whole job.

    Args:
        on_verdicts: called with the verdicts before any alias moves; with none if every alias is at its version.
        on_move: called after each move of an alias.
        on_images: called whenever images were made.

    Raises:
        InvalidInputError: the config, version, checkpoint or cluster is at fault.
        UnreachableError: the registry or the cluster does not answer.
        LearningError: sampling broke down.
        GateError: at least one version did not pass; no alias was moved.
        ConflictError: an alias was moved by somebody else meanwhile; those before it have moved.
    """
    client = tracking.connect()
    verdicts = examine(client, config, on_images)
    on_verdicts(verdicts)
    if failures := [verdict.failure for verdict in verdicts if not verdict.passed]:
        raise GateError("gate", "; ".join(failures), "no alias was moved")
    move_aliases(client, verdicts, config.promotion.why, on_move)


def examine(client: MlflowClient, config: PromotionConfig, on_images: OnImages) -> list[Verdict]:
    """Verdicts of the gate on every alias that should move; none if each is at its version already.

    All verdicts become tags of their versions, whether they passed or not. Raises as `promote` does, except for
    GateError and ConflictError.
    """
    proposals = _propose(client, config)
    if not proposals:
        return []
    schedules, damaged = _load(client, proposals)
    verdicts = [
        Verdict(each, [Check("artifact", False, damaged[each.version.version])])
        for each in proposals
        if each.version.version in damaged
    ]
    if readable := [each for each in proposals if each.version.version in schedules]:
        pipeline = Pipeline.for_schedule(schedules[readable[0].version.version], config.promotion.checkpoint)
        require_judge(config.gate, pipeline.model)
        verdicts += _judge(config, pipeline, readable, schedules, on_images)
    for verdict in verdicts:
        record_verdict(
            client,
            verdict.proposal.version,
            verdict.proposal.alias,
            passed=verdict.passed,
            content=_evidence(config, verdict),
        )
    return verdicts


def move_aliases(
    client: MlflowClient, verdicts: Sequence[Verdict], why: str, on_move: Callable[[AliasMove], None]
) -> None:
    """Moves aliases to the versions that passed, one after the other.

    Raises:
        ConflictError: an alias was moved by somebody else meanwhile; those before it have moved.
    """
    for each in (verdict.proposal for verdict in verdicts if verdict.passed):
        to = each.version.version
        on_move(move_alias(client, each.version.name, each.alias, to, expected=each.incumbent, why=why))


def require_judge(gate: GateSection, model: CacheableTransformer) -> None:
    """Raises ConfigError if the gate limits the Fréchet distance of images that no classifier here can judge."""
    if gate.max_distance is not None and classifier.judge_of(model.image_shape) is None:
        problem = f"no classifier judges what {model.name} draws"
        raise ConfigError("gate.max_distance", problem, "leave it out; gate.max_error limits the error of any model")


def _propose(client: MlflowClient, config: PromotionConfig) -> list[Proposal]:
    """A proposal for every alias that is not at its wanted version."""
    wanted = config.promotion
    if wanted.version is not None:
        chosen = dict.fromkeys(wanted.alias, get_version(client, wanted.name, wanted.version))
    else:
        versions = versions_of(client, wanted.name)
        tiers = assign_tiers(versions, withdrawn(history(client, wanted.name))) if versions else {}
        chosen = {alias: tiers[alias] for alias in wanted.alias if alias in tiers}
        if not chosen:
            raise RegistryError(
                wanted.name,
                f"no version of it is chosen for {', '.join(wanted.alias)} by the rule of the tiers",
                "learn one that is cheap enough, or name promotion.version",
            )
    proposals = [Proposal(alias, version, holder_of(client, wanted.name, alias)) for alias, version in chosen.items()]
    return [proposal for proposal in proposals if proposal.incumbent != proposal.version.version]


def _load(client: MlflowClient, proposals: list[Proposal]) -> tuple[dict[int, Schedule], dict[int, str]]:
    """The schedules of the proposed versions and of the incumbents, and the problems of damaged ones, by number.

    Raises:
        RegistryError: one cannot be fetched.
    """
    versions = {proposal.version.version: proposal.version for proposal in proposals}
    for proposal in proposals:
        if proposal.incumbent is not None and proposal.incumbent not in versions:
            versions[proposal.incumbent] = get_version(client, proposal.version.name, proposal.incumbent)
    schedules, damaged = {}, {}
    for number, version in versions.items():
        try:
            schedules[number] = load_schedule(version)
        except (IntegrityError, ScheduleError) as error:
            damaged[number] = str(error)
    return schedules, damaged


def _judge(
    config: PromotionConfig,
    pipeline: Pipeline,
    proposals: list[Proposal],
    schedules: Mapping[int, Schedule],
    on_images: OnImages,
) -> list[Verdict]:
    before = [Verdict(each, identity_checks(schedules[each.version.version], pipeline)) for each in proposals]
    # With other weights or another sampler nothing is worth measuring.
    verdicts, sound = ([verdict for verdict in before if verdict.passed == passed] for passed in (False, True))
    if not sound:
        return verdicts
    proposals = [verdict.proposal for verdict in sound]
    measurable = {number: schedule for number, schedule in schedules.items() if fits(schedule, pipeline)}
    measured = _measure(config, pipeline, proposals, measurable, on_images)
    gate = config.gate
    limits = Limits(gate.max_error, gate.max_distance)
    for proposal, identity in zip(proposals, sound, strict=True):
        number, incumbent = proposal.version.version, proposal.incumbent
        mine = measured.schedules[_version(number)]
        checks = gate_checks(
            schedules[number],
            mine,
            measured.baseline,
            _fewer_steps(measured.rivals, mine.candidate.compute_share),
            None if incumbent is None else measured.schedules.get(_version(incumbent)),
            limits,
            _resampling(config),
        )
        # A damaged incumbent is no reason to keep it.
        if incumbent is not None and incumbent in schedules and incumbent not in measurable:
            checks[-1] = Check("gain", False, f"{_version(incumbent)}, which has the alias, does not compare")
        verdicts.append(Verdict(proposal, [*identity.checks, *checks]))
    return verdicts


def _version(number: int) -> str:
    """Name of a version in the comparison."""
    return f"version {number}"


def _fewer_steps(rivals: Sequence[Remeasured], compute_share: float) -> Remeasured:
    """The rival with as many steps as the compute share buys; `rivals` are fewer steps, from many to few."""
    affordable = (rival for rival in rivals if rival.candidate.compute_share <= compute_share + 1e-9)
    return next(affordable, rivals[-1])


def _measure(
    config: PromotionConfig,
    pipeline: Pipeline,
    proposals: list[Proposal],
    schedules: Mapping[int, Schedule],
    on_images: OnImages,
) -> Comparison[Remeasured]:
    gate, model, sampler = config.gate, pipeline.model, pipeline.solver
    candidates = gate_candidates(pipeline, {_version(number): schedule for number, schedule in schedules.items()})
    sampling = SamplingConfig(
        model=ModelSection(name=model.name, checkpoint=config.promotion.checkpoint),
        sampler=SamplerSection(
            name=sampler.name,
            steps=sampler.steps,
            guidance_scale=pipeline.guidance.scale,
            guidance_rule=pipeline.guidance.rule,
        ),
        cluster=config.cluster,
        batch_size=gate.batch_size,
    )
    purpose = " ".join(sorted(schedules[proposal.version.version].sha256 for proposal in proposals))
    cluster.connect()
    cluster.require(config.cluster)
    cluster.wait_for_room(config.cluster)
    with ClusterSampler(sampling) as sample:
        return remeasure(
            candidates,
            sample,
            fresh_draws(gate.seed, purpose, gate.images, model.num_classes),
            config.chunk,
            classifier.judge_of(model.image_shape),
            on_images,
        )


def _resampling(config: PromotionConfig) -> Resampling:
    return Resampling(config.gate.resamples, config.gate.confidence, config.gate.seed)


def _evidence(config: PromotionConfig, verdict: Verdict) -> dict[str, Any]:
    return {
        "incumbent": verdict.proposal.incumbent,
        "images": config.gate.images,
        "seed": config.gate.seed,
        "confidence": config.gate.confidence,
        "checks": [check.as_dict() for check in verdict.checks],
    }
