//! Figures that must not contradict each other; exit files, plans and saved conversations of any content.

mod exit_files;
mod layers;
mod made;
mod plans;
mod states;
