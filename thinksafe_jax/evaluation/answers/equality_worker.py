r"""A process that compares answers; `equality.py` starts it as a script, feeds it and may kill it.

One JSON object a line in, one out: `{"how": "verify" | "symbolic", "answer": ..., "gold": ...}`
gives `{"equal": true | false}`, and `error` where one kept it from comparing. It imports nothing of
the package, so that it starts in under a second. No time limit works inside: simplifying `9^{9^9}`
cannot be interrupted from Python, only killed. Text is parsed by grammars alone, never by `eval`
(which sympy's `parse_expr` is).
"""

import json
import logging
import resource
import sys

MOST_MEMORY = 4 * 2**30  # bytes of address space; a power tower must not take the machine's memory


def verify(answer: str, gold: str) -> bool:
    """Math-Verify's judgement of two LaTeX answers."""
    from math_verify import parse
    from math_verify import verify as equal

    # no limit of its own: it would use SIGALRM, which algebra does not always heed
    right, left = (
        parse(f"${text}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for text in (gold, answer)
    )
    return bool(right and left) and bool(equal(right, left, timeout_seconds=None))


def symbolic(answer: str, gold: str) -> bool:
    """Equality up to simplification or 1e-4 relative, as the authors' scorer has it."""
    import re
    from math import isclose
    from typing import Any, cast

    from latex2sympy2_extended import latex2sympy
    from sympy import N, simplify

    # 1\frac{2}{7} is a product there, not a mixed number
    texts = (re.sub(r"(\d)\\frac", r"\1 \\cdot \\frac", text) for text in (answer, gold))
    try:
        left, right = (cast(Any, latex2sympy(text)) for text in texts)
    except Exception:  # the grammar raises many kinds; text that it cannot read was compared before
        return False
    try:
        if left == right or simplify(left - right) == 0:
            return True
        return isclose(float(N(left)), float(N(right)), rel_tol=1e-4)
    except Exception:
        return False


def main() -> None:
    """Answers requests until its input ends."""
    logging.disable(logging.CRITICAL)  # Math-Verify logs every text that it cannot parse
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(hard, MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    sys.setrecursionlimit(3000)
    ways = {"verify": verify, "symbolic": symbolic}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"equal": ways[request["how"]](request["answer"], request["gold"])}
        except (Exception, RecursionError, MemoryError) as error:
            reply = {"equal": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
