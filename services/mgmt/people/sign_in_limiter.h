// How often a password may be tried.
//
// Three counts of wrong tries, each with a number that is free; from then on each further wrong try
// closes that way in for 15 s, 30 s, 1 min, … at most 15 min:
//
//   a name from one place       5 free    guessing one person's password
//   one place, any name        20 free    trying one password at many names
//   a name from all places     50 free    guessing from many places at once
//
// (A place is an address, or an IPv6 /64 network: PlaceOf.) Tries while a way is closed are not
// looked at and not counted, so each closing has an end. Counts are forgotten an hour after their
// last wrong try.
//
// Nobody can lock out somebody else: the first two counts hit only the attacker's own places. The
// third one would be a way to keep `admin` out for ever by guessing badly from many places, so it
// does not apply to a place from which that name has signed in before ("known": the service
// remembers the last ones of each user). From there an attacker would have to sit at the
// administrator's own desk (or proxy), where the first count bounds him to four tries an hour. An
// administrator who is on the road while an attack goes on has the machine itself: `tessera-mgmt
// --reset-admin-password`.
//
// A try is charged before the password is looked at and given back when it was right, so that many
// tries at once are no way around. A right password gives back its own try only, for the place and
// for the name at large: else an attacker could reset his place's count by signing in as himself.
//
// Memory: each count knows at most kEntriesLimit keys; beyond it forgets those whose last wrong try
// is oldest. It is forgotten at a restart, which only somebody at the machine can cause.
//
// Pure: times are the caller's, in milliseconds of a clock that never jumps. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_SIGN_IN_LIMITER_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_SIGN_IN_LIMITER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::mgmt {

// Wrong tries by key.
//
// Threads: one at a time.
class WrongTries {
 public:
  static constexpr size_t kEntriesLimit = 10'000;
  static constexpr uint64_t kFirstClosingMs = 15'000;
  static constexpr uint64_t kLongestClosingMs = 900'000;
  static constexpr uint64_t kForgottenAfterMs = 3'600'000;

  explicit WrongTries(uint32_t free) : free_(free) {}

  // For how long the key is closed; 0: it is not.
  [[nodiscard]] uint64_t ClosedForMs(const std::string& key, uint64_t now_ms) const;
  void Charge(const std::string& key, uint64_t now_ms);
  // Takes one charge back, with the closing that it brought.
  void GiveBack(const std::string& key);
  void Forget(const std::string& key) { entries_.erase(key); }
  void ForgetPrefix(const std::string& prefix);
  [[nodiscard]] size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t wrong = 0;
    uint64_t last_ms = 0;
    uint64_t closed_until_ms = 0;
  };
  void MakeRoom(uint64_t now_ms);

  const uint32_t free_;
  std::map<std::string, Entry> entries_;
};

class SignInLimiter {
 public:
  static constexpr uint32_t kFreeOfNameAtPlace = 5;
  static constexpr uint32_t kFreeOfPlace = 20;
  static constexpr uint32_t kFreeOfName = 50;

  struct Try {
    std::string user_name;
    std::string place;
    bool known = false;  // this name has signed in from this place before
  };

  // 0: the try may go on, and is charged as a wrong one until Right or Undecided. Else it may not,
  // for so many milliseconds.
  [[nodiscard]] uint64_t Begin(const Try& attempt, uint64_t now_ms);
  // The password was right.
  void Right(const Try& attempt);
  // The password was not looked at after all.
  void Undecided(const Try& attempt);
  // Forgets wrong tries at this name, wherever they came from.
  void ForgetName(const std::string& user_name);

 private:
  [[nodiscard]] static std::string NameAtPlace(const Try& attempt);

  absl::Mutex mutex_;
  WrongTries name_at_place_ ABSL_GUARDED_BY(mutex_){kFreeOfNameAtPlace};
  WrongTries place_ ABSL_GUARDED_BY(mutex_){kFreeOfPlace};
  WrongTries name_ ABSL_GUARDED_BY(mutex_){kFreeOfName};
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_SIGN_IN_LIMITER_H_
