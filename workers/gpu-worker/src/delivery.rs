//! Deliveries: received, in hand, sent on.

pub(crate) mod credits;
pub(crate) mod delayed;
pub(crate) mod due;
pub(crate) mod identity;
pub(crate) mod in_hand;
pub(crate) mod onward;
pub(crate) mod share;
pub(crate) mod traced;
pub(crate) mod why_it_came;

pub(crate) use identity::Identity;
pub(crate) use in_hand::InHand;
pub(crate) use share::Share;
pub(crate) use traced::BegunSpan;
