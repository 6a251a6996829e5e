"""How a network is trained: the loop, its updates, schedules, optimisers, transfer."""
