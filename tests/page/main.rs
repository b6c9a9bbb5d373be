//! The dashboard in a real browser, on a real fleet: every page with tasks in all states, every action done by clicks and looked up afterwards, what is hostile, what the
//! keyboard reaches, what a hidden tab costs, and 10,000 tasks.

mod actions;
mod hostile;
mod many;
mod pages;
mod pictures;
mod reach;
mod site;
mod stream;
