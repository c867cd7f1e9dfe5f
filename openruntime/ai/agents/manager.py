"""AIAgentManager: takes a request, chooses the agent, builds its context, has the model work with its tools, and keeps what came of it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from uuid_utils import uuid7

from openruntime.ai.agents import sessions
from openruntime.ai.agents.budget import chosen
from openruntime.ai.agents.prompts import asked
from openruntime.ai.agents.records import CUT, RUNNING, RunRecord, interrupted, packed, shown, storable
from openruntime.ai.agents.sessions import Sessions
from openruntime.contracts.agents import Budget, BudgetSpent, Report, Role, Spent
from openruntime.contracts.ai import Models, ModelSpec, ModelWork, Streams
from openruntime.contracts.errors import Conflict, InvalidParameter, MissingExtra, NotFound, OpenRuntimeError, QueueFull, Unavailable
from openruntime.contracts.interfaces import Shelf
from openruntime.contracts.models import AIRequest, WorkflowType
from openruntime.contracts.records import LOCAL, Principal
from openruntime.contracts.registry import AGENTS, MINDS
from openruntime.models.weights import reads
from openruntime.security.tokens import TokenIssuer

log = logging.getLogger(__name__)

NAMESPACE = "ai-runs"
TTL = 7 * 86_400.0  # seconds that a run's record is kept
MOST_WAITING = 200  # runs that wait for their turn
KEPT = 200  # ended runs whose events are still told
BEAT = 20.0  # seconds between signs that a run's server lives
PAGE = 100
CANCELLED = "the run was cancelled"
PARAMETERS = frozenset({"model", "session", "budget", "seed"})  # of every workflow; the rest are the role's own, and all that it is told
PLAIN = Role(
    name="model", summary="The plain model: answers without tools.", workflows=(WorkflowType.MODEL_INFERENCE,),
    prompt="", scopes=frozenset({"tasks:read", "tasks:write"}), budget=Budget(tasks=0),
)  # fmt: skip


class AIAgentManager:
    """`models`, `work` and `streams` are how models are reached; without them agents compute what can be known without one.

    `parallel`: runs that work at the same time; `shared`: whether other servers keep their runs on this shelf too."""

    def __init__(
        self, tokens: TokenIssuer, shelf: Shelf, *, models: Models | None = None, work: ModelWork | None = None, streams: Streams | None = None,
        parallel: int = 8, shared: bool = False,
    ) -> None:  # fmt: skip
        self.models, self.work, self.streams = models, work, streams
        self.sessions = Sessions(shelf)
        self.scripted: Callable[[Role], Any] | None = None  # tests give roles a pydantic-ai model of their own
        self._tokens = tokens
        self._shelf = shelf
        self._application: Any = None
        self._runs: dict[str, Any] = {}  # id -> Run, those that go on and the last that ended
        self._places = asyncio.Semaphore(parallel)
        self.owner = str(uuid7())
        self._patience = 3 * BEAT if shared else 0.0
        self._saving: dict[str, asyncio.Task[None]] = {}

    def use(self, application: Any) -> None:
        """The API that agents act through; it needs this manager too, so it comes after."""
        self._application = application

    # -- who there is

    def roles(self) -> list[Role]:
        """All that can be loaded, the plain model last."""
        found = []
        for name in AGENTS.names():
            try:
                found.append(AGENTS.load(name))
            except OpenRuntimeError as error:
                log.warning("the agent %s is left out: %s", name, error.message)
        return [*found, PLAIN]

    def role_for(self, workflow: WorkflowType) -> Role:
        return next(role for role in self.roles() if workflow in role.workflows)

    def agents(self) -> list[dict[str, Any]]:
        """As `/ai/agents` shows them."""
        return [
            {
                "name": role.name, "summary": role.summary, "workflows": [str(workflow) for workflow in role.workflows],
                "scopes": sorted(role.scopes), "asks": sorted(role.asks), "needs_model": role.work is None,
                "tools": [{"name": tool.__name__, "summary": (tool.__doc__ or "").strip()} for tool in role.tools],
                "budget": msgspec.structs.asdict(role.budget),
            }
            for role in self.roles()
        ]  # fmt: skip

    # -- runs

    async def submit(self, request: AIRequest, *, principal: Principal = LOCAL) -> Any:
        """A run that was begun. Raises `InvalidParameter`, `ModelNotFound`, `Unavailable`, `MissingExtra`, `QueueFull`, `NotFound`."""
        from openruntime.ai.agents.run import Run  # with it comes the HTTP client, which only those who ask agents need

        role = self.role_for(request.workflow)
        parameters = dict(request.parameters or {})
        budget = chosen(role.budget, parameters.get("budget"))
        session = sessions.wanted(parameters)
        seed = parameters.get("seed")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63):
            raise InvalidParameter(f"`parameters.seed` must be a whole number from 0 on, not {seed!r:.60}", field="parameters.seed")
        before = await self.sessions.get(session, principal=principal) if session is not None else None
        spec, lack = self._model(role, parameters)
        if sum(run.record.status == "queued" for run in self._runs.values()) >= MOST_WAITING:
            raise QueueFull(f"{MOST_WAITING} agents' runs wait already; try again later", retry_after=5)
        if storable(parameters) != parameters:
            raise InvalidParameter("`parameters` has a whole number beyond 64 bits; send it as a text, or as a float", field="parameters")
        own = {name: value for name, value in parameters.items() if name not in PARAMETERS}
        run_id = str(uuid7())
        record = RunRecord(
            id=run_id, tenant=principal.tenant, user=principal.id, workflow=str(request.workflow), agent=role.name, prompt=request.prompt,
            created=time.time(), owner=self.owner, budget=budget, spent=Spent(), report=Report(), parameters=parameters,
            max_tokens=request.max_tokens, temperature=request.temperature, model=spec.id if spec is not None else "", session=session,
            beat=time.time(),
        )  # fmt: skip
        who = Principal(f"{principal.id}/{role.name}:{run_id}", principal.tenant, role.scopes)
        asked = request.model_copy(update={"parameters": own})
        run = Run(record, role, who, asked, self._tokens, self._application, self._places, self._saved, self.models)
        run.seed = seed
        if before is not None:
            limit = reads(spec) if spec is not None else None
            run.recalled = await sessions.recalled(before, role.prompt, request.prompt, limit, request.max_tokens)
        if spec is not None and self.work is not None and self.streams is not None:
            from openruntime.ai.agents.writing import ModelWriter

            run.writer = ModelWriter(run, spec, self.work, self.streams)
        self._forget()
        await self._put(record)
        self._runs[run_id] = run
        run.task = asyncio.get_running_loop().create_task(self._live(run, principal, lack), name=f"agent-{run_id}")
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would end without a last word
        return run

    def _model(self, role: Role, parameters: dict[str, Any]) -> tuple[ModelSpec | None, OpenRuntimeError | None]:
        """The run's model, or why it has none. Raises that where the role can do nothing without."""
        named = parameters.get("model")
        if named is not None and not isinstance(named, str):
            raise InvalidParameter("`parameters.model` must be a model's name", field="parameters.model")
        if self.scripted is not None and role is not PLAIN:
            return None, None
        if self.models is None or self.work is None or self.streams is None:
            lack: OpenRuntimeError = Unavailable("no models can be reached from here")
        elif named is not None:
            spec = self.models.resolve(named)
            self.work.begins(spec)
            return spec, None
        else:
            try:
                spec = self.models.default()
                self.work.begins(spec)
                return spec, None
            except OpenRuntimeError as error:
                lack = error
        if named is not None or role.work is None:
            raise lack
        return None, lack

    async def _live(self, run: Any, user: Principal, lack: OpenRuntimeError | None) -> None:
        """A run from its turn to its last word."""
        record: RunRecord = run.record
        beating = asyncio.create_task(self._beat(run))
        try:
            await run.desk.turn.take()
            await self._work(run, lack)
        except asyncio.CancelledError:
            cut = run.stopping == CUT
            record.status, record.code, record.error = ("failed", "unavailable", CUT) if cut else ("cancelled", "cancelled", CANCELLED)
        except OpenRuntimeError as error:
            record.status, record.code, record.error = "failed", error.code, error.message
        except Exception:
            log.exception("an agent's run failed", extra={"task_id": record.id})
            record.status, record.code, record.error = "failed", "internal", "the run failed; the server's log has the cause under its id"
        finally:
            beating.cancel()
            run.desk.turn.give()
            record.finished = time.time()
            if record.status in RUNNING:
                record.status = "completed"
            self._tokens.end(record.id)
            try:
                await self._remember(run, user)
                await self._put(record)
            finally:
                run.feed.tell("finished", shown(record))

    async def _remember(self, run: Any, user: Principal) -> None:
        record: RunRecord = run.record
        if record.session is None or record.status != "completed":
            return
        answer = record.report.text or record.report.summary
        try:
            await self.sessions.add(record.session, record.id, record.prompt, answer, principal=user, cut=run.recalled)
        except Exception as error:
            log.warning("a session cannot be kept", exc_info=True, extra={"task_id": record.id})
            why = error.message if isinstance(error, OpenRuntimeError) else "the server's log says why"
            record.report.unfinished = record.report.unfinished or f"its session does not remember this: {why}"

    async def _work(self, run: Any, lack: OpenRuntimeError | None) -> None:
        record: RunRecord = run.record
        record.status, record.started = "running", time.time()
        self._tokens.begin(record.id)
        run.feed.tell("started", {"task_id": record.id, "agent": record.agent, "model": record.model or None})
        run.meter.start()
        async with run.own:
            working = asyncio.create_task(self._steps(run, lack))
            guards = [asyncio.create_task(self._clock(run)), asyncio.create_task(run.own.watch())]
            try:
                await asyncio.wait((working, *guards), return_when=asyncio.FIRST_COMPLETED)
                if not working.done():  # time or device seconds are over
                    run.meter.over = run.meter.over or run.meter.exceeded("seconds" if guards[0].done() else "device_seconds")
                    working.cancel()
                    await asyncio.wait((working,))
                    if working.cancelled():
                        raise run.meter.over
                await working
            except BudgetSpent as over:
                record.report.unfinished = f"{over}: this is what was found until then"
            finally:
                for task in (working, *guards):
                    if not task.cancelling():  # a second time would cut off how it tidies up
                        task.cancel()
                await asyncio.gather(working, *guards, return_exceptions=True)
                run.meter.stop()
                settling = asyncio.create_task(run.own.settle())
                try:
                    await asyncio.shield(settling)
                finally:
                    await settling  # with the client that is closed after

    async def _clock(self, run: Any) -> None:
        while (left := run.meter.seconds_left) > 0:
            await asyncio.sleep(min(left, 1.0))

    async def _steps(self, run: Any, lack: OpenRuntimeError | None) -> None:
        """What the role computes, then what the model makes of it."""
        role: Role = run.role
        report: Report = run.report
        if role.work is not None:
            await run.use(role.work, {}, by="role")
        if role is PLAIN:
            from openruntime.contracts.ai import Generation

            system = [{"role": "system", "content": run.recalled.summary}] if run.recalled.summary else []
            messages = [*system, *run.recalled.messages, {"role": "user", "content": run.request.prompt}]
            answer = await run.writer.complete(Generation(messages=messages), aloud=True)
            report.text = answer.text
            report.unfinished = "the answer was cut at `max_tokens`" if answer.finish == "length" else None
            return
        scripted = self.scripted(role) if self.scripted is not None else None
        if scripted is None and run.writer is None:
            report.data.setdefault("model", lack.message if lack is not None else "no model was asked")
            return
        try:
            said = await MINDS.load("agents")(run, asked(run), scripted)
        except BudgetSpent:
            raise
        except OpenRuntimeError as error:
            if role.work is None or (isinstance(error, MissingExtra) and not report.summary):
                raise
            report.unfinished = f"no model has worded this: {error.message}"
            return
        report.text = said
        if role.words is not None:
            report.text = role.words(run, said)
            run.feed.say(report.text)

    async def _beat(self, run: Any) -> None:
        while True:
            await asyncio.sleep(BEAT)
            run.record.beat = time.time()
            self._saved(run)

    # -- what is asked of runs

    async def get(self, run_id: str, *, principal: Principal = LOCAL) -> RunRecord:
        """Raises `NotFound`."""
        run = self._runs.get(run_id)
        record: RunRecord | None = run.record if run is not None else None
        if record is None and (kept := await self._shelf.get(NAMESPACE, run_id)) is not None:
            record = interrupted(msgspec.msgpack.decode(kept[0], type=RunRecord), self._patience)
        if record is None or record.tenant != principal.tenant:
            raise NotFound(f"there is no agent's run {run_id!r:.100}", field="task_id")
        return record

    async def live(self, run_id: str, *, principal: Principal = LOCAL) -> Any:
        """The run itself, where this server still has it: None for one of which only the record is left. Raises `NotFound`,
        `Conflict` where another server has it."""
        record = await self.get(run_id, principal=principal)
        run = self._runs.get(run_id)
        if run is None and not record.ended:
            raise Conflict(f"run {run_id} goes on at another server on this store: ask that one", field="task_id")
        return run

    async def list(self, *, principal: Principal = LOCAL, limit: int = 50) -> Sequence[RunRecord]:
        """The newest first."""
        found: dict[str, RunRecord] = {}
        after = ""
        while page := await self._shelf.items(NAMESPACE, tenant=principal.tenant, after=after, limit=PAGE):
            found |= {key: msgspec.msgpack.decode(meta, type=RunRecord) for key, meta in page}
            after = page[-1][0]
        found = {key: interrupted(record, self._patience) for key, record in found.items() if key not in self._runs}
        found |= {key: run.record for key, run in self._runs.items() if run.record.tenant == principal.tenant}
        return [found[key] for key in sorted(found, reverse=True)[:limit]]

    async def cancel(self, run_id: str, *, principal: Principal = LOCAL) -> RunRecord:
        """Stop it, and all that it has running; one that has ended is answered unchanged. Raises `NotFound`."""
        run = await self.live(run_id, principal=principal)
        if run is not None:
            self._stop(run, CANCELLED)
            await asyncio.wait((run.task,), timeout=10.0)
        return await self.get(run_id, principal=principal)

    async def close(self) -> None:
        """Runs that go on are cut, and say so."""
        going = [run for run in self._runs.values() if run.task is not None and not run.task.done()]
        for run in going:
            self._stop(run, CUT)
        await asyncio.gather(*(run.task for run in going), return_exceptions=True)
        await asyncio.gather(*self._saving.values(), return_exceptions=True)

    def _stop(self, run: Any, why: str) -> None:
        if run.stopping is None and not run.record.ended:  # once: neither what settles it nor what keeps it must be cut off too
            run.stopping = why
            run.task.cancel()

    # -- keeping

    def _saved(self, run: Any) -> None:
        """Keep how it stands, soon."""
        if run.id not in self._saving:
            self._saving[run.id] = asyncio.create_task(self._save(run.record))

    async def _save(self, record: RunRecord) -> None:
        await asyncio.sleep(0.05)  # what follows at once is kept along
        self._saving.pop(record.id, None)
        if not record.ended:
            await self._put(record)

    async def _put(self, record: RunRecord) -> None:
        try:
            await self._shelf.put(NAMESPACE, record.id, packed(record), {}, ttl=TTL, tenant=record.tenant)
        except Exception as error:
            log.warning("the record of an agent's run cannot be kept: %s", error, exc_info=not isinstance(error, OpenRuntimeError))

    def _forget(self) -> None:
        ended = [run_id for run_id, run in self._runs.items() if run.record.ended]
        for run_id in ended[: max(0, len(ended) - KEPT)]:
            del self._runs[run_id]
