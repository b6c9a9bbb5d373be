//! A model's weights and one pass over them, for several texts at once. Weights are shared by all texts; what a text remembers is its own.

use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::ParallelSliceMut,
};

use super::{
    arithmetic::{Matrix, attend, gate, multiply, normed},
    model::Shape,
    turns::{Turn, Turns},
};

/// Weights in memory.
pub(super) struct Weights {
    pub(super) shape: Shape,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Vec<f32>,
    /// `None`: the embedding is the output too.
    pub(super) output: Option<Matrix>,
    pub(super) turns: Turns,
    pub(super) epsilon: f32,
}

/// One layer. Queries and keys are turned by neighbours: the rows of their weights stand as GGUF files have them.
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) queries: Matrix,
    pub(super) keys: Matrix,
    pub(super) values: Matrix,
    pub(super) mixed: Matrix,
    pub(super) inner_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

/// What one text remembers: keys and values of every token that was taken in, layer by layer.
pub(super) struct Memory {
    layers: Vec<Remembered>,
    tokens: usize,
}

#[derive(Default)]
struct Remembered {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The next tokens of one text, at least one.
pub(super) struct Intake<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) memory: &'a mut Memory,
    /// Whether to say what may follow the last of them.
    pub(super) says_next: bool,
}

impl Weights {
    /// Remembers nothing yet.
    pub(super) fn memory(&self) -> Memory {
        Memory { layers: self.layers.iter().map(|_| Remembered::default()).collect(), tokens: 0 }
    }

    /// Takes in tokens of several texts; gives for each the logits of what may follow, where that is wanted. The same numbers come out for a text whatever texts are
    /// beside it, and however its tokens are cut into intakes.
    pub(super) fn forward(&self, intakes: &mut [Intake<'_>]) -> Vec<Option<Vec<f32>>> {
        // Inside the pool each product starts without waking a thread first.
        rayon::scope(|_| self.pass(intakes))
    }

    fn pass(&self, intakes: &mut [Intake<'_>]) -> Vec<Option<Vec<f32>>> {
        let rows = Place::all(intakes);
        let turns: Vec<Turn> = rows.iter().map(|row| self.turns.at(row.position)).collect();
        let tokens = intakes.iter().flat_map(|intake| intake.tokens);
        let mut stream: Vec<f32> = tokens.flat_map(|token| self.embedding.row(*token as usize)).collect();
        for (number, layer) in self.layers.iter().enumerate() {
            let input = normed(&stream, &layer.attention_norm, self.epsilon);
            let [mut queries, mut keys, values] = multiply([&layer.queries, &layer.keys, &layer.values], &input);
            self.turn(&mut queries, &turns);
            self.turn(&mut keys, &turns);
            self.remember(intakes, number, &keys, &values);
            let mixed = self.attention(intakes, number, &queries, &rows);
            let [mixed] = multiply([&layer.mixed], &mixed);
            add(&mut stream, &mixed);
            let input = normed(&stream, &layer.inner_norm, self.epsilon);
            let [mut gates, ups] = multiply([&layer.gate, &layer.up], &input);
            gate(&mut gates, &ups);
            let [inner] = multiply([&layer.down], &gates);
            add(&mut stream, &inner);
        }
        for intake in intakes.iter_mut() {
            intake.memory.tokens += intake.tokens.len();
        }
        self.logits(intakes, &stream)
    }

    fn turn(&self, vectors: &mut [f32], turns: &[Turn]) {
        let width = vectors.len() / turns.len();
        for (vector, turn) in vectors.chunks_exact_mut(width).zip(turns) {
            vector.chunks_exact_mut(self.shape.head()).for_each(|head| turn.turn(head));
        }
    }

    fn remember(&self, intakes: &mut [Intake<'_>], layer: usize, keys: &[f32], values: &[f32]) {
        let mut from = 0;
        for intake in intakes {
            let to = from + intake.tokens.len() * self.shape.kv_width();
            let remembered = &mut intake.memory.layers[layer];
            remembered.keys.extend_from_slice(&keys[from..to]);
            remembered.values.extend_from_slice(&values[from..to]);
            from = to;
        }
    }

    /// What each row takes from its own text up to itself.
    fn attention(&self, intakes: &[Intake<'_>], layer: usize, queries: &[f32], rows: &[Place]) -> Vec<f32> {
        /// Fewer products than this are sooner done than shared out.
        const ALONE: usize = 200_000;
        let (head, heads, width) = (self.shape.head(), self.shape.heads, self.shape.kv_width());
        let mut mixed = vec![0.0; queries.len()];
        let of_head = |(number, out): (usize, &mut [f32])| {
            let row = rows[number / heads];
            let first = number % heads / (heads / self.shape.kv_heads) * head;
            let seen = (row.position + 1) * width;
            let remembered = &intakes[row.intake].memory.layers[layer];
            let query = &queries[number * head..(number + 1) * head];
            attend(query, &remembered.keys[..seen], &remembered.values[..seen], (width, first), out);
        };
        let products: usize = rows.iter().map(|row| 2 * (row.position + 1) * head * heads).sum();
        if products < ALONE {
            mixed.chunks_exact_mut(head).enumerate().for_each(of_head);
        } else {
            mixed.par_chunks_exact_mut(head).enumerate().for_each(of_head);
        }
        mixed
    }

    fn logits(&self, intakes: &[Intake<'_>], stream: &[f32]) -> Vec<Option<Vec<f32>>> {
        let hidden = self.shape.hidden;
        let (mut last, mut end) = (Vec::new(), 0);
        for intake in intakes {
            end += intake.tokens.len() * hidden;
            if intake.says_next {
                last.extend_from_slice(&stream[end - hidden..end]);
            }
        }
        if last.is_empty() {
            return intakes.iter().map(|_| None).collect();
        }
        let output = self.output.as_ref().unwrap_or(&self.embedding);
        let [logits] = multiply([output], &normed(&last, &self.norm, self.epsilon));
        let mut rows = logits.chunks_exact(output.rows()).map(<[f32]>::to_vec);
        intakes.iter().map(|intake| if intake.says_next { rows.next() } else { None }).collect()
    }
}

fn add(stream: &mut [f32], more: &[f32]) {
    for (sum, more) in stream.iter_mut().zip(more) {
        *sum += more;
    }
}

/// Where a row stands: in which of the intakes, and at which position of its text.
#[derive(Clone, Copy)]
struct Place {
    intake: usize,
    position: usize,
}

impl Place {
    fn all(intakes: &[Intake<'_>]) -> Vec<Self> {
        let places = intakes.iter().enumerate().flat_map(|(intake, of)| {
            let first = of.memory.tokens;
            (first..first + of.tokens.len()).map(move |position| Self { intake, position })
        });
        places.collect()
    }
}
