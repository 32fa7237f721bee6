// Chance that can be had again: numbers that follow from a seed. What is drawn for, is decided by who draws.

/** A source of chance. The same seed draws the same numbers. */
export class Random {
  #state;

  constructor(seed) {
    this.seed = seed >>> 0;
    this.#state = this.seed;
  }

  /** From 0 up to, and without, 1: mulberry32, small and even enough to choose by. */
  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from `least` to `most`, both included. */
  between(least, most) {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  chance(share) {
    return this.next() < share;
  }

  pick(list) {
    return list[this.between(0, list.length - 1)];
  }

  /** A copy in another order. */
  shuffled(list) {
    const copy = [...list];
    for (let i = copy.length - 1; i > 0; i--) {
      const j = this.between(0, i);
      [copy[i], copy[j]] = [copy[j], copy[i]];
    }
    return copy;
  }

  /** A source of its own for `label`, so that how often one part draws changes nothing for another. */
  fork(label) {
    let hash = 0x811c9dc5 ^ this.seed;
    for (const byte of Buffer.from(label)) hash = Math.imul(hash ^ byte, 0x01000193);
    return new Random(hash);
  }
}
