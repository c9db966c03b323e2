"""A cheap check in the job's environment, before a night is paid for.

    python -m jobs.ppo.preflight JOB_FOLDER

Takes the config and the inputs of `jobs.ppo.train`, and `held_out` and `success`, and sees that the
model loads, that every prompt fits its context, that the reward gives finite numbers for empty,
nonsensical and sampled completions, and what tells success for the first two. Metrics: the size of
the model and of the prompts.
"""

from jobs.policy.data import check_apart, read_prompts, read_trajectories
from jobs.policy.inputs import base_identity, job_reward, job_success
from jobs.policy.model import check_base
from jobs.policy.rollout import roll_out
from jobs.ppo.config import PreflightConfig
from jobs.ppo.policy import load_policy
from jobs.runtime import Job, Outcome, main, optional_input

TRIED_PROMPTS = 4
TRIED_TOKENS = 8


def program(job: Job[PreflightConfig]) -> Outcome:
    config = job.config
    prompts = read_prompts(job.input("prompts"))
    held_out_path = optional_input(job, "held_out")
    held_out = read_prompts(held_out_path, "--held-out") if held_out_path else []
    check_apart(prompts, held_out)
    trajectories = optional_input(job, "trajectories")
    if trajectories:
        read_trajectories(trajectories)
    reward, success = job_reward(job), job_success(job)
    tried = prompts[:TRIED_PROMPTS] + held_out[:TRIED_PROMPTS]
    champion = optional_input(job, "champion")
    if champion:
        check_base(champion, base_identity(job))
    policy = load_policy(config, optional_input(job, "base"), champion)
    for text in ("", "nonsense", '{"a": 1}'):
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        for judging in filter(None, (reward, success)):
            judging(tried, [text] * len(tried), [ids] * len(tried))
    lengths = [len(ids) for ids in policy.encode_all(prompts + held_out, config.max_new_tokens)]
    roll_out(
        policy,
        tried,
        reward,
        model_version="",
        max_new_tokens=min(TRIED_TOKENS, config.max_new_tokens),
        temperature=config.temperature,
        seed=config.seed,
        batch=len(tried),
    )
    parameters = list(policy.model.parameters())
    return Outcome(
        {
            "parameters": float(sum(p.numel() for p in parameters if not p.requires_grad)),
            "trained_parameters": float(sum(p.numel() for p in parameters if p.requires_grad)),
            "prompts": float(len(prompts)),
            "held_out": float(len(held_out)),
            "longest_prompt": float(max(lengths)),
        }
    )


if __name__ == "__main__":
    main(PreflightConfig, program)
