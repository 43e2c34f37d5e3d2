"""`ctsm judge`: human A/B studies."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from ctsm.judging.results_verbs import (
    EXPORT_HELP,
    REPORT_HELP,
    add_export_arguments,
    add_report_arguments,
    run_export,
    run_report,
)
from ctsm.judging.study import ASPECTS

HELP = "let people compare two systems' replies: make a study, serve it, report what they said"

CREATE = "make a study from replies files and print a personal link for each annotator"
SERVE = "serve a study's pages until interrupted"
LINKS = "give annotators new links; their old ones are no longer valid"
CLOSE = "take no more answers, for good; then there is a report"
STUDY_HELP = "a SQLite file, or a postgresql:// URL"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    verbs = parser.add_subcommands(dest="what", metavar="{create,serve,links,close,report,export}")
    for name, text, declare in (
        ("create", CREATE, _add_create),
        ("serve", SERVE, _add_serve),
        ("links", LINKS, _add_links),
        ("close", CLOSE, lambda _verb: None),
        ("report", REPORT_HELP, add_report_arguments),
        ("export", EXPORT_HELP, add_export_arguments),
    ):
        verb = type(parser)(description=text)
        verb.add_argument("study", metavar="STUDY", help=STUDY_HELP)
        declare(verb)
        verbs.add_subcommand(name, verb, help=text)


def _add_create(verb: jsonargparse.ArgumentParser) -> None:
    text = "two replies files to compare, A and B, under a name; may be given again"
    verb.add_argument("--pair", action="append", required=True, metavar="NAME=A.jsonl,B.jsonl", help=text)
    text = "what is asked of each comparison, separated by commas"
    verb.add_argument("--aspects", default=",".join(ASPECTS), metavar="ASPECT,...", help=text)
    verb.add_argument("--annotators", type=int, default=3, metavar="N", help="how many people judge every item")
    verb.add_argument("--items", type=int, default=100, metavar="N", help="how many contexts to sample")
    verb.add_argument("--seed", type=int, default=1, metavar="N", help="of the sampling, the sides and the orders")
    text = "text file that annotators read first (default: built in)"
    verb.add_argument("--guidelines", type=Path, metavar="FILE", help=text)
    _add_links_output(verb)


def _add_serve(verb: jsonargparse.ArgumentParser) -> None:
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on")
    verb.add_argument("--port", type=int, default=8765, help="port to listen on; 0 takes a free one")
    text = "serve the admin's page to other machines too (only behind HTTPS)"
    verb.add_argument("--admin-from-anywhere", action="store_true", help=text)


def _add_links(verb: jsonargparse.ArgumentParser) -> None:
    text = "whom to give a new link: numbers of annotators, or admin (default: everyone)"
    verb.add_argument("--for", dest="names", nargs="+", metavar="WHO", help=text)
    _add_links_output(verb)


def _add_links_output(verb: jsonargparse.ArgumentParser) -> None:
    text = "write the links to this new file, which only its owner can read, instead of printing them"
    verb.add_argument("--links", type=Path, metavar="FILE", help=text)
    text = "what the links begin with: the address at which people reach the server"
    verb.add_argument("--url", default="http://127.0.0.1:8765", help=text)


def run(arguments: jsonargparse.Namespace) -> None:
    """Do what the verb says."""
    given = arguments[arguments.what]
    verbs = {
        "create": _create,
        "serve": _serve,
        "links": _links,
        "close": _close,
        "report": run_report,
        "export": run_export,
    }
    verbs[arguments.what](given)


def _create(given: jsonargparse.Namespace) -> None:
    from ctsm.judging.create import create_study, read_guidelines
    from ctsm.judging.design import DesignOptions
    from ctsm.judging.links import handing_out
    from ctsm.judging.store import Store

    options = DesignOptions(
        aspects=tuple(aspect.strip() for aspect in given.aspects.split(",")),
        annotators=given.annotators,
        items=given["items"],
        seed=given.seed,
        guidelines=read_guidelines(given.guidelines),
    )
    with handing_out(given.study, given.links, given.url) as hand_out:
        made, notes = create_study(given.study, given.pair, options)
        made.close()
        print("\n".join(notes))
        with Store.opened(given.study) as store:
            hand_out(store.new_tokens())


def _serve(given: jsonargparse.Namespace) -> None:
    from ctsm.judging.serve import serve

    serve(given.study, given.host, given.port, given.admin_from_anywhere)


def _links(given: jsonargparse.Namespace) -> None:
    from ctsm.judging.links import handing_out
    from ctsm.judging.store import Store

    with Store.opened(given.study) as store, handing_out(given.study, given.links, given.url) as hand_out:
        hand_out(store.new_tokens(given.names))


def _close(given: jsonargparse.Namespace) -> None:
    from ctsm.judging.store import Store

    with Store.opened(given.study) as store:
        store.close_study()
        print(f"{given.study}: is closed with {len(store.judgements()):,} judgements and takes no more.")
