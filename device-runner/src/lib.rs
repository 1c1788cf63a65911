//! The on-device runner: claims the stages assigned to this device and runs them on data that stays here
