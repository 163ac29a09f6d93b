//! The command line: spellings, numbers, files that are no files, outputs.
