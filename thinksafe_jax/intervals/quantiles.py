"""Quantiles of the t distribution."""


def t_quantile(freedom: float, share: float) -> float:
    """What Student's t with so many degrees of freedom stays below with probability `share`."""
    # imported here: it takes longer than most commands that need no interval
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
