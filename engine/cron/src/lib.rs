//! Fire times of schedules, pure, with an explicit rule for daylight saving
