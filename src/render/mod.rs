//! Results in the forms in which people and programs read them: results in, writer out.

pub mod compare;
pub mod doctor;
mod failures;
pub mod hgrm;
pub mod html;
pub mod json;
pub mod logs;
mod storm;
pub mod text;
