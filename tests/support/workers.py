"""Workers in this process: what is done travels as it would to another one, and ends in a shuffled order."""

import pickle
import random


class Shuffled:
    """A `Workers` that does items in an order of its own."""

    def __init__(self, seed=0):
        self.random, self.n_done = random.Random(seed), 0

    def each(self, model, act, items, *, shared, done):
        act, shared, items = pickle.loads(pickle.dumps((act, shared, list(items))))
        for place in self.random.sample(range(len(items)), len(items)):
            done(place, pickle.loads(pickle.dumps(act(model, shared, items[place]))))
            self.n_done += 1
