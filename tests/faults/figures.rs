//! Figures that must not contradict each other; exit files and plans.
