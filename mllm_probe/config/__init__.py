"""Every setting that a user can make, one file a group; how they are composed, and objects built of them."""
