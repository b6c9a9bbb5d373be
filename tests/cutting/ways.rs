//! Other ways to cut a batch, to compare with: each keeps the bounds too.

use gpu_worker::cutting::{Bounds, Seats, cut};

/// The least items of a slice, as by default.
pub const ITEMS_MIN: u32 = 4;

/// A way to cut: how many items, and what is known of the fleet.
pub struct Way {
    /// What it is called in the table.
    pub name: &'static str,
    /// The lengths of the slices.
    pub cut: fn(u32, &[Seats]) -> Vec<u32>,
}

/// All of them; the one that is chosen comes last.
pub const WAYS: [Way; 8] = [
    Way { name: "one slice", cut: |items, _| vec![items] },
    Way { name: "equal, 1 a slot", cut: |items, fleet| evenly(items, slots(fleet)) },
    Way { name: "equal, 2 a slot", cut: |items, fleet| evenly(items, 2 * slots(fleet)) },
    Way { name: "equal, 4 a slot", cut: |items, fleet| evenly(items, 4 * slots(fleet)) },
    Way { name: "guided", cut: |items, fleet| decreasing(items, 1, slots(fleet)) },
    Way { name: "factoring", cut: |items, fleet| decreasing(items, slots(fleet), 2 * slots(fleet)) },
    Way { name: "by speed first", cut: by_speed_first },
    Way { name: "acted out", cut: |items, fleet| cut(items, fleet, Bounds::of(ITEMS_MIN)) },
];

fn slots(fleet: &[Seats]) -> u32 {
    fleet.iter().map(|seats| seats.slots).sum()
}

fn evenly(items: u32, slices: u32) -> Vec<u32> {
    let slices = slices.min(items / ITEMS_MIN).clamp(1, Bounds::SLICES_MAX);
    (0..slices).map(|number| items / slices + u32::from(number < items % slices)).collect()
}

/// Rounds of slices, each slice this part of what was left when its round began.
fn decreasing(items: u32, round: u32, divisor: u32) -> Vec<u32> {
    let (mut left, mut slices) = (items, Vec::new());
    while left > 0 {
        let room = Bounds::SLICES_MAX - slices.len() as u32;
        let size = left.div_ceil(divisor).max(ITEMS_MIN).max(left.div_ceil(room));
        for _ in 0..round {
            let taken = if left < size + ITEMS_MIN { left } else { size };
            left -= taken;
            slices.push(taken);
            if left == 0 {
                break;
            }
        }
    }
    slices
}

/// A first round that gives every slot six tenths of its share by speed, the largest first, then factoring.
fn by_speed_first(items: u32, fleet: &[Seats]) -> Vec<u32> {
    const FIRST: f64 = 0.6;
    let of_one = |seats: &Seats| std::iter::repeat_n(1.0 / seats.item_ms.unwrap_or(1.0), seats.slots as usize);
    let mut speeds: Vec<f64> = fleet.iter().flat_map(of_one).collect();
    speeds.sort_by(|a, b| b.total_cmp(a));
    let all: f64 = speeds.iter().sum();
    let (mut left, mut slices) = (items, Vec::new());
    for speed in &speeds {
        let size = ((f64::from(items) * FIRST * speed / all) as u32).max(ITEMS_MIN);
        if left < size + ITEMS_MIN {
            break;
        }
        left -= size;
        slices.push(size);
    }
    let mut rest = decreasing(left, speeds.len() as u32, 2 * speeds.len() as u32);
    while slices.len() + rest.len() > Bounds::SLICES_MAX as usize {
        let last = rest.pop().unwrap_or_default();
        if let Some(longer) = rest.last_mut() {
            *longer += last;
        }
    }
    slices.extend(rest);
    slices
}
