"""`ctsm chat`: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from ctsm.decoding.arguments import changed_option, described_options
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.files import describe_os_error
from ctsm.serving.heatmap import COLOURINGS, coloured_words, explanation, shows_colours
from ctsm.serving.responder import GREEDY, Responder, Response
from ctsm.serving.transcript import Exchange, write_transcript

HELP = {
    "/explain": "show what the model felt at each word of your last turn; `/explain all` at every turn it read",
    "/undo": "take your last turn and its reply back",
    "/reset": "start a new conversation",
    "/set": "show how replies are made; `/set decoder sample`, then `/set temperature 0.7` and so on change it,\n"
    f"`/set colour {'|'.join(COLOURINGS)}` how your words are coloured",
    "/save": "`/save FILE` writes the conversation with its emotions as JSON",
    "/help": "show this",
    "/quit": "end the chat, as Ctrl-D and Ctrl-C do",
}

BEGIN_ANEW = "/reset"
"""The one line that is no turn over a pipe."""


class Conversation:
    """What was said so far, and how the next reply is made.

    Args:
        responder: answers the turns.
        options: how replies are made.
    """

    def __init__(self, responder: Responder, options: DecodingOptions) -> None:
        self.responder = responder
        self.options = options
        self.exchanges: list[Exchange] = []

    def reply(self, text: str) -> Response:
        """Reply to one turn and remember both; a turn that cannot be answered is forgotten.

        Raises:
            CtsmError: the turn holds no words.
        """
        # Halves of surrogate pairs can neither be printed nor saved.
        text = text.encode("utf-8", "replace").decode()
        turns = [turn for exchange in self.exchanges for turn in (exchange.text, exchange.response.text)]
        # Each turn of a conversation has its own random numbers, also where the user fixed the seed.
        (response,) = self.responder.respond_batch([[*turns, text]], self.options, seeds=[len(turns)])
        self.exchanges.append(Exchange(text, response, self.options))
        return response


class Chat(Conversation):
    """A conversation in a terminal, and its commands.

    Args:
        responder: answers the turns.
        console: the terminal.
        options: how replies are made.
    """

    def __init__(self, responder: Responder, console: Console, options: DecodingOptions = GREEDY) -> None:
        super().__init__(responder, options)
        self.console = console
        self.colouring = COLOURINGS[0]
        self._saved: set[Path] = set()

    def take(self, line: str) -> bool:
        """Answer a line: a turn, or a command with its argument; False means that it ends the chat."""
        text = line.strip()
        if not text.startswith("/"):
            if text:
                self._answer(text)
            return True
        command, _, argument = text.partition(" ")
        if command == "/quit":
            return False
        actions = {
            "/explain": self._explain,
            "/undo": self._undo,
            "/reset": self._reset,
            "/set": self._set,
            "/save": self._save,
            "/help": self._help,
        }
        try:
            if command not in actions:
                raise CtsmError(f"Unknown command {command!r}: /help lists those there are.")
            actions[command](argument.strip())
        except CtsmError as error:
            self._remark(str(error))
        return True

    def _answer(self, text: str) -> None:
        try:
            response = self.reply(text)
        except CtsmError as error:
            self._remark(str(error))
        else:
            self._show(response)

    def _show(self, response: Response) -> None:
        """Show a reply or the notice, and how the turn was read."""
        if response.notice is not None:
            self.console.print(Text.assemble(("notice> ", "bold yellow"), response.text))
            self._remark("       The notice stays: /undo takes your last turn back, /reset starts anew.")
            return  # numbers would be out of place here; /explain has them
        self.console.print(Text.assemble(("model> ", "bold"), response.text))
        for alternative in response.alternatives:
            self._remark(f"   or> {alternative}")
        if self.colouring != "off" and response.context_tokens and shows_colours(self.console):
            self.console.print(Text("       ").append_text(coloured_words(response, self.colouring)))
        notes = [", ".join(f"{name} {probability:.0%}" for name, probability in response.top_emotions())]
        if response.truncated:
            notes.append("(only the end of this long conversation was read)")
        if any(notes):
            self._remark("       " + " ".join(filter(None, notes)))

    def _explain(self, argument: str) -> None:
        if argument not in ("", "all"):
            raise CtsmError(f"/explain {argument}: write `/explain` or `/explain all`.")
        if not self.exchanges:
            raise CtsmError("Nothing to explain yet: write something first.")
        for part in explanation(self.exchanges[-1].response, self.console, every_turn=argument == "all"):
            self.console.print(part)

    def _undo(self, argument: str) -> None:
        _take_nothing("/undo", argument)
        if not self.exchanges:
            raise CtsmError("Nothing to take back: the conversation is empty.")
        self._remark(f"Taken back: {self.exchanges.pop().text}")

    def _reset(self, argument: str) -> None:
        _take_nothing("/reset", argument)
        self.exchanges.clear()
        self._remark("A new conversation.")

    def _set(self, argument: str) -> None:
        name, _, value = (part.strip() for part in argument.partition(" "))
        if not name:
            for known, shown in {**described_options(self.options), "colour": self.colouring}.items():
                self.console.print(Text(f"{known:<20} {shown}"))
        elif name in ("colour", "color"):
            if value not in COLOURINGS:
                raise CtsmError(f"colour is {value!r}; choose one of {', '.join(COLOURINGS)}.")
            self.colouring = value
        else:
            self.options = changed_option(self.options, name, value)

    def _save(self, argument: str) -> None:
        if not argument:
            raise CtsmError("/save needs a file: write `/save FILE`.")
        if not self.exchanges:
            raise CtsmError("Nothing to save yet: write something first.")
        try:
            path = Path(argument).expanduser().resolve()
            if path.exists() and path not in self._saved:
                raise CtsmError(f"{path}: is there already; choose another name.")
            write_transcript(path, self.responder.bundle.config.model, self.exchanges)
        except (RuntimeError, ValueError) as error:  # an unknown ~user, a loop of links, a NUL
            raise CtsmError(f"{argument!r}: {error}; choose another name.") from None
        except OSError as error:
            raise CtsmError(describe_os_error(error)) from None
        self._saved.add(path)
        self._remark(f"Saved: {path}")

    def _help(self, argument: str) -> None:
        _take_nothing("/help", argument)
        for command, text in HELP.items():
            self.console.print(Text(f"{command:<9} " + text.replace("\n", "\n" + " " * 10)))

    def _remark(self, text: str) -> None:
        self.console.print(Text(text, style="dim"))


def _take_nothing(command: str, argument: str) -> None:
    if argument:
        raise CtsmError(f"{command} {argument}: {command} takes nothing; write it alone.")


def chat_in_terminal(
    responder: Responder, read: Callable[[], str], console: Console, options: DecodingOptions = GREEDY
) -> None:
    """Chat with the person at a terminal until /quit, Ctrl-D or Ctrl-C.

    Args:
        responder: answers the turns.
        read: asks for a line; raises EOFError at the end of the input and KeyboardInterrupt as `input` does.
        console: the terminal.
        options: how replies are made, to begin with.
    """
    talk = Chat(responder, console, options)
    console.print(Text("Write what happened to you. /help lists the commands, /quit ends.", style="dim"))
    try:
        while talk.take(read()):
            pass
    except (EOFError, KeyboardInterrupt):
        console.print()


def chat_over_pipe(
    responder: Responder, source: IO[str], out: IO[str], remarks: IO[str], options: DecodingOptions = GREEDY
) -> None:
    """Answer every line of `source` by one line of `out`, at once, without prompts or colours.

    Lines are data: no command is carried out, whatever they begin with. Only a line of `BEGIN_ANEW` alone is no turn;
    its answer is empty, as that to a line without words, of which `remarks` says why.
    """
    talk = Conversation(responder, options)
    while line := source.readline():
        text = line.strip()
        answer = ""
        if text == BEGIN_ANEW:
            talk = Conversation(responder, options)
        else:
            try:
                answer = talk.reply(text).text
            except CtsmError as error:
                print(error, file=remarks)
        print(" ".join(answer.split()), file=out, flush=True)  # whoever words the notice anew may write several lines
