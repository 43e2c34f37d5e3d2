"""What clients send and get, as JSON. Fields that the service does not know are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_MESSAGES = 100
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_INPUTS = 32

LARGEST_SEED = (1 << 63) - 1


class Sent(BaseModel):
    """Base of what clients send."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(Sent):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Sent):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="`system` and `developer` messages are accepted and ignored: the model takes no instructions."
    )
    content: str | list[TextPart] | None = Field(
        description="Text, or parts of the type `text`, which are joined; null only where the user says nothing."
    )

    def text(self) -> str:
        """Return the content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Sent):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Whether a last chunk tells the usage.")


class ResponseFormat(Sent):
    """The form of the reply."""

    type: Literal["text"]


StopString = Annotated[str, Field(min_length=1)]
NoList = Annotated[list[Any], Field(max_length=0)]
NoMapping = Annotated[dict[str, Any], Field(max_length=0)]
Zero = Annotated[float, Field(ge=0, le=0)]


class CompletionRequest(Sent):
    """A request for a reply."""

    model: str = Field(description="The id that `/v1/models` lists.")
    messages: list[Message] = Field(
        min_length=1,
        description="The conversation; the last message must be the user's. Neighbours of a role are joined.",
    )
    stream: bool | None = Field(None, description="Whether to send the reply piece by piece, as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="With `include_usage` a last chunk tells the usage.")
    n: int | None = Field(
        None,
        ge=1,
        le=MAX_CHOICES,
        description="Replies to make. Without `temperature` and `top_p` they are the best of a beam of max(5, n).",
    )
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = Field(
        None, description=f"Up to {MAX_STOPS} strings that end the reply; they are not part of it."
    )
    max_tokens: int | None = Field(None, ge=1, description="Words of the reply at most; the server has a limit too.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of `max_tokens`; it wins.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Above 0: draw the words, by p^(1 / temperature). At 0 always the most probable."
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Draw among the most probable words with this probability together; at temperature 0 unused.",
    )
    seed: int | None = Field(
        None, ge=-LARGEST_SEED, le=LARGEST_SEED, description="Makes a drawn reply repeatable, whatever else is served."
    )
    tools: NoList | None = Field(None, description="Not supported.")
    tool_choice: Literal["none"] | None = Field(None, description="Not supported.")
    functions: NoList | None = Field(None, description="Not supported.")
    function_call: Literal["none"] | None = Field(None, description="Not supported.")
    logprobs: Literal[False] | None = Field(None, description="Not supported.")
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(None, description="Not supported.")
    response_format: ResponseFormat | None = Field(None, description="Only text.")
    logit_bias: NoMapping | None = Field(None, description="Not supported.")
    presence_penalty: Zero | None = Field(None, description="Only 0.")
    frequency_penalty: Zero | None = Field(None, description="Only 0.")


UNSUPPORTED = (
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "logprobs",
    "top_logprobs",
    "response_format",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
)
"""Fields that would change the reply in a way that the model cannot: refused unless they ask for nothing."""


class EmotionsRequest(Sent):
    """A request for the emotions of texts or conversations."""

    model: str | None = Field(None, description="The id that `/v1/models` lists; may be left out.")
    input: str | Annotated[list[str | list[Message]], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="A text, or a list whose items are texts or conversations (lists of messages)."
    )


class Usage(BaseModel):
    """Words that were read and said."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Perception(BaseModel):
    """What the model felt: the extension of OpenAI's answers."""

    emotion: str | None = Field(description="The most probable of the 32 emotions; null where there is none.")
    probabilities: dict[str, float] = Field(description="Of each emotion.")
    truncated: bool = Field(description="Whether the beginning of a long conversation was left out.")
    notice: str | None = Field(description="Where to find help, if a message suggests danger: see `content_filter`.")


class Reply(BaseModel):
    """The message of a choice."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One reply."""

    index: int
    message: Reply
    logprobs: None = None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(BaseModel):
    """The answer to a request for a reply."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    ctsm: Perception


class Trait(BaseModel):
    """A word in the lexicon, each number in [0, 1]."""

    valence: float
    arousal: float
    dominance: float


class Token(BaseModel):
    """What the model perceives at one word."""

    token: str
    role: Literal["user", "assistant"]
    trait: Trait | None = Field(description="Static emotion; null for a word outside the lexicon.")
    inclination: list[float] = Field(description="Cosine with each emotion word; hardly depends on the context.")
    state: list[float] = Field(description="Probability of each emotion by this word alone, in this context.")


class Emotions(BaseModel):
    """The emotions of one text or conversation."""

    index: int
    object: Literal["emotions"] = "emotions"
    emotion: str | None
    probabilities: dict[str, float]
    tokens: list[Token]
    truncated: bool
    notice: str | None = Field(description="Where to find help, if the text suggests danger; nothing is held back.")


class ExplainRequest(Sent):
    """A request for what a reply rests on."""

    model: str | None = Field(None, description="The id that `/v1/models` lists; may be left out.")
    messages: list[Message] = Field(
        min_length=1,
        description="The conversation; the last message must be the user's. Neighbours of a role are joined.",
    )


class ExplainedToken(Token):
    """A word of the conversation, with its weight in what the model perceived."""

    standardised: list[float] = Field(description="The inclination, in standard deviations from the vocabulary's mean.")
    intensity: float = Field(description="Weight by emotional intensity; 1 is the mean.")
    attention: float | None = Field(description="Share in what the emotion head reads; null for a head without.")


class SaidWord(BaseModel):
    """A word of the reply and where it came from."""

    token: str
    copied: float = Field(description="Share of the word's probability that comes from copying it.")
    weights: list[float] = Field(description="Probability of copying from each of `tokens`.")


class ExplainedReply(BaseModel):
    """The reply; it has no words where it is a notice."""

    content: str
    words: list[SaidWord]


class ExplanationBody(BaseModel):
    """The answer to a request for what a reply rests on."""

    object: Literal["explanation"] = "explanation"
    model: str
    emotions: list[str] = Field(description="The order of the numbers in `inclination`, `standardised` and `state`.")
    emotion: str | None
    probabilities: dict[str, float]
    tokens: list[ExplainedToken]
    reply: ExplainedReply
    inferences: dict[str, list[str]] = Field(description="From the last message, by relation.")
    truncated: bool
    notice: str | None = Field(description="Where to find help, if a message suggests danger; it replaces the reply.")


class EmotionsUsage(BaseModel):
    """Words that were read."""

    prompt_tokens: int
    total_tokens: int


class EmotionsList(BaseModel):
    """The answer to a request for emotions."""

    object: Literal["list"] = "list"
    model: str
    emotions: list[str] = Field(description="The order of the numbers in `inclination` and `state`.")
    data: list[Emotions]
    usage: EmotionsUsage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ctsm"] = "ctsm"


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Status(BaseModel):
    """Whether the service is well."""

    status: Literal["ok", "stopping"]


class ErrorFacts(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, in OpenAI's format."""

    error: ErrorFacts
