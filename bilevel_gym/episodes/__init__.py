"""What can be seen of a game: episodes and transitions drawn from a model, or recorded.

* `simulator` plays whole episodes of one fixed policy, many at a time.
* `transitions` draws single transitions for actions of the caller's choice.
* `sampler` is what a method without a model may use: a simulator's episodes with the leader's
  rewards, and counts of the transitions in them.
* `recorded` and `fragments` hold episodes of followers who have no table.
"""
