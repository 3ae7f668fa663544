"""Chat completions: the parameters of `/v1/chat/completions`, and its answers."""

from collections.abc import Sequence
from typing import Any

from model.errors import UserError
from train.generation.chat_template import NO_TEMPLATE
from train.generation.prompts import check_text
from train.generation.text_engine import TextUpdate
from train.serving.completions import FINISH_REASONS
from train.serving.parameters.body import Parameters
from train.serving.parameters.errors import ApiError, bad_parameter, unsupported
from train.serving.parameters.jobs import MOST_LOGPROBS, Job, check_model, make_job
from train.serving.parameters.options import Served
from train.serving.parameters.tools import Tools, past_calls, take_tools
from train.serving.token_texts import TokenTexts


def chat_job(parameters: Parameters, served: Served) -> Job:
    """The job of a body. Raises ApiError."""
    check_model(parameters, served)
    tools = take_tools(parameters, served)
    ids = chat_ids(parameters, served, tools)
    most = parameters.whole("max_completion_tokens", None, 1)
    older = parameters.whole("max_tokens", None, 1)
    if most is not None and older is not None and most != older:
        raise bad_parameter("max_tokens", f"is {older}, and max_completion_tokens {most}; give one of them")
    listed, wanted = parameters.whole("top_logprobs", None, 0, MOST_LOGPROBS), parameters.flag("logprobs")
    if listed is not None and not wanted:
        raise bad_parameter("top_logprobs", "needs logprobs=true")
    return make_job(
        parameters,
        served,
        [ids],
        older if most is None else most,
        names=["messages"],
        num_logprobs=(listed or 0) if wanted else None,
        tools=tools,
    )


def chat_ids(parameters: Parameters, served: Served, tools: Tools | None) -> list[int]:
    """The ids of the prompt that messages and tools make. Raises ApiError."""
    messages = _messages(parameters)
    continued = parameters.flag("continue_final_message")
    if parameters.flag("add_generation_prompt", not continued) == continued:
        raise bad_parameter("add_generation_prompt", "is the opposite of continue_final_message")
    variables = parameters.take("chat_template_kwargs", {})
    if not isinstance(variables, dict) or variables.keys() & {"messages", "add_generation_prompt"}:
        raise bad_parameter("chat_template_kwargs", "must be an object of variables of the chat template")
    if served.chat is None:
        raise ApiError(400, f"messages cannot be read: {NO_TEMPLATE}", parameter="messages", code="no_chat_template")
    try:
        shown = () if tools is None else tools.definitions
        ids = served.chat.ids(messages, continue_last=continued, tools=shown, variables=variables)
    except UserError as error:
        raise ApiError(400, str(error), parameter="messages", code="chat_template_failed") from None
    if not ids:
        raise bad_parameter("messages", "give an empty prompt under this chat template")
    return ids


def _messages(parameters: Parameters) -> list[dict[str, Any]]:
    value = parameters.take("messages")
    if not isinstance(value, list) or not value:
        raise parameters.wrong("messages", "a list with at least one message", value)
    return [_message(message, f"messages[{place}]") for place, message in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_parameter(where, "must be an object with a role and a content")
    inside = Parameters(value, where + ".")
    role, name = inside.text("role"), inside.text("name")
    if role is None:
        raise bad_parameter(f"{where}.role", "is missing")
    content, reasoning = inside.take("content"), inside.text("reasoning_content")
    inside.text("refusal")
    inside.take("annotations")
    if isinstance(content, list):
        content = "\n".join(_part(part, f"{where}.content[{place}]") for place, part in enumerate(content))
    calls, answered = inside.take("tool_calls"), inside.text("tool_call_id")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise inside.wrong("content", "a text, or a list of parts of type text", content)
    if inside.take("function_call"):
        raise unsupported(f"{where}.function_call")
    inside.finish()
    message = {"role": role, "content": content, "name": name, "reasoning_content": reasoning}
    message["tool_call_id"] = answered
    for field, text in message.items():
        try:
            check_text(text or "", f"{where}.{field}")
        except UserError as error:
            raise ApiError(400, str(error), parameter=f"{where}.{field}", code="invalid_value") from None
    given = {field: text for field, text in message.items() if text is not None}
    return given | ({"tool_calls": past_calls(calls, f"{where}.tool_calls")} if calls else {})


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise ApiError(
            400,
            f'{where} must be {{"type": "text", "text": "..."}}: this model reads text alone',
            parameter=where,
            code="unsupported_content",
        )
    return str(part["text"])


class Chat:
    """Writes the answers of a job in the form of `/v1/chat/completions`."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, job: Job, texts: TokenTexts) -> None:
        self._job, self._texts = job, texts
        self._readers = [] if job.tools is None else [job.tools.reader() for _ in job.requests]

    def opening(self, index: int) -> list[dict[str, Any]]:
        """The choice that a stream of a text begins with: the role."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def choice(self, index: int, update: TextUpdate, *, first: bool) -> dict[str, Any]:
        """A change of a text; see `Completions.choice`."""
        text, calls = self._read(index, update)
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        return {"index": index, "delta": delta, **self._about(update, calls)}

    def whole(self, index: int, update: TextUpdate) -> dict[str, Any]:
        """A complete text."""
        text, calls = self._read(index, update)
        content = None if calls and not text else text
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {"index": index, "message": message, **self._about(update, calls)}

    def _read(self, index: int, update: TextUpdate) -> tuple[str, list[dict[str, Any]]]:
        """The new text that is no call, and the calls when the text is complete."""
        if self._job.tools is None:
            return update.text, []
        reader = self._readers[index]
        text = reader.push(update.text)
        if update.ended_by is None:
            return text, []
        rest, calls = reader.finish()
        return text + rest, self._job.tools.shown(calls)

    def _about(self, update: TextUpdate, calls: list[dict[str, Any]]) -> dict[str, Any]:
        listed: dict[str, Sequence[Any] | None] | None = None
        if self._job.logprobs:
            by_id = self._job.labels_by_id
            entries = [self._texts.chat_entry(token.score, by_id) for token in update.tokens]
            listed = {"content": entries, "refusal": None}
        reason = "tool_calls" if calls else FINISH_REASONS.get(update.ended_by or "")
        return {"logprobs": listed, "finish_reason": reason}
