//! Results in the forms that people and programs read. Each function takes a result and writes one form.

pub mod compare;
pub mod doctor;
mod failures;
mod fanout;
pub mod hgrm;
pub mod html;
pub mod json;
pub mod logs;
mod proof;
mod storm;
pub mod text;
