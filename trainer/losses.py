"""The loss of one round, token by token. One divisor N, the number of drafts that count, for both of its terms:

    loss = ( sum over drafts i and tokens t of  -A_i log pi(y_it)  +  beta KL(pi || base) at y_it ) / N

A is a number and carries no gradient; log pi carries all of it. The KL runs over the full vocabulary at every sampled
position and is part of the loss, never of the reward. Left out: importance ratios and clipping, because every round
is sampled by the very policy it updates, and any average over a draft's own length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Terms:
    """Sums over the sampled tokens of some drafts: sums, so that batches add up to the round whatever their make-up."""

    loss: Tensor  # () with gradient: policy term + beta x KL, before the divisor
    kl: float  # nats
    entropy: float  # nats
    sampler_gap: float  # sum of log pi_sampler - log pi_trainer


def token_terms(
    logits: Tensor,  # (R, V) of the policy at the R sampled positions of the batch; no padding among them
    base_logits: Tensor,  # (R, V) of the base model at the same positions
    token_ids: Tensor,  # (R,) what was sampled there
    advantages: Tensor,  # (R,) of the draft each token belongs to
    sampler_log_probs: Tensor,  # (R,) as the sampler reported them
    kl_weight: float,
) -> Terms:
    """The sums of one batch. Only `loss` carries a gradient, and it reaches `logits` alone."""
    log_pi = torch.log_softmax(logits, dim=-1)  # (R, V)
    log_base = torch.log_softmax(base_logits.detach(), dim=-1)  # (R, V)
    chosen = log_pi.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)  # (R,)
    kl = (log_pi.exp() * (log_pi - log_base)).sum()  # ()
    loss = -(advantages.detach() * chosen).sum() + kl_weight * kl  # ()
    with torch.no_grad():
        entropy = -(log_pi.exp() * log_pi).sum()
        gap = (sampler_log_probs - chosen).sum()
    return Terms(loss=loss, kl=kl.item(), entropy=entropy.item(), sampler_gap=gap.item())
